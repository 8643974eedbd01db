// Good, bad or no label, image by image.

import { badges } from "../pair_badge.mjs";
import { counts, nextUnlabelled } from "../thumbs.mjs";
import { button, el } from "../../element.mjs";
import { GridView } from "./grid_view.mjs";
import { badgeShown } from "./pair_bar.mjs";

const BUTTONS_HEIGHT = 30;

export class ThumbsView {
  constructor(board, update) {
    this.board = board;
    this._update = update;
    this.grid = new GridView({
      onActivate: (id) => this.board.label(id, "good"),
      below: BUTTONS_HEIGHT,
      extend: (tile) => this._extend(tile),
    });
    this.tools = el("div", { className: "dpo-tools" });
    this.element = el("div", { className: "dpo-view dpo-thumbs" }, this.grid.element);
    this.keys = [
      ["Arrows", "move between the images"],
      ["G", "good, and on to the next"],
      ["B", "bad, and on to the next"],
      ["N", "no label"],
      ["Enter", "good, or no longer"],
    ];
  }

  fill(images, nameOf) {
    this.grid.fill(images, nameOf);
  }

  get pairs() {
    return this.board.pairs;
  }

  /** A good image and a bad one make a pair; the labels alone are what the loss kto takes. */
  nonePaired = "Labels, no pair yet";

  get hint() {
    const { good, bad, none } = counts(this.board.model.labels);
    if (!none) return this.board.doneText("or change a label");
    if (!good && !bad) return "Mark the images you like and those you do not.";
    return `${good} good, ${bad} bad, ${none} without a label.`;
  }

  update() {
    const { labels } = this.board.model;
    const shown = badges(this.pairs);
    for (const tile of this.grid.tiles) {
      const label = labels.get(tile.id);
      tile.show({
        badge: badgeShown(shown.get(tile.id), this.board.unsaved > 0),
        mark: label === "none" ? "" : label,
        told: label === "none" ? "no label" : label,
        pressed: label === "good",
      });
      for (const wanted of ["good", "bad"]) {
        const pressed = String(label === wanted);
        const one = tile[wanted];
        if (one.getAttribute("aria-pressed") !== pressed) one.setAttribute("aria-pressed", pressed);
      }
    }
  }

  onKey(event) {
    const wanted = { g: "good", b: "bad", n: "none" }[event.key.toLowerCase()];
    if (!wanted) return this.grid.onKey(event);
    const tile = this.grid.focusedTile;
    if (!tile) {
      this.grid.focus();
      return true;
    }
    const { ids, labels } = this.board.model;
    // By key a label is set, never taken off: only N does that.
    if (labels.get(tile.id) !== wanted) this.board.label(tile.id, wanted);
    if (wanted !== "none") {
      const next = nextUnlabelled(ids, this.board.model.labels, tile.id);
      if (next) this.grid.focus(next);
    }
    return true;
  }

  _extend(tile) {
    const make = (wanted, label, key) =>
      button({
        label: `${tile.name}: ${label}`,
        sign: wanted,
        className: `dpo-thumb dpo-thumb-${wanted}`,
        onclick: () => this.board.label(tile.id, wanted),
      });
    tile.good = make("good", "good");
    tile.bad = make("bad", "bad");
    for (const one of [tile.good, tile.bad]) one.tabIndex = -1;
    tile.element.append(el("span", { className: "dpo-thumb-buttons" }, tile.good, tile.bad));
  }
}
