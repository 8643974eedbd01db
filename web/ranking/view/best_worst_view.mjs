// Click the best image, then the worst.

import { mayPick } from "../best_worst.mjs";
import { badges } from "../pair_badge.mjs";
import { oneSize } from "../pair_making.mjs";
import { bestWorstVote } from "../vote.mjs";
import { badgeShown } from "./pair_bar.mjs";
import { GridView } from "./grid_view.mjs";
import { button, el, setHidden } from "../../element.mjs";

export class BestWorstView {
  constructor(board, update) {
    this.board = board;
    this._update = update;
    this._pointed = null;
    this.grid = new GridView({
      onActivate: (id) => this._pick(id),
      onPoint: (id) => {
        if (id !== this._pointed) {
          this._pointed = id;
          if (this.board.model?.selection?.best) this._update();
        }
      },
    });
    this.goOn = button({
      label: "Go on: one more pair of the images left",
      text: "One more pair",
      key: "G",
      onclick: () => this.board.goOn(),
    });
    this.tools = el("div", { className: "dpo-tools" }, this.goOn);
    this.element = el("div", { className: "dpo-view" }, this.grid.element);
    this.keys = [
      ["Arrows", "move between the images"],
      ["Enter", "pick: the best, then the worst"],
      ["1 … 9", "pick that image"],
      ["G", "go on with one more pair"],
    ];
  }

  fill(images, nameOf) {
    this._pointed = null;
    this.grid.fill(images, nameOf);
  }

  get pairs() {
    const { selection, sizes } = this.board.model;
    const { best, left } = selection;
    const { pairs } = this.board;
    if (best === null) return pairs;
    if (this._pointed !== best && mayPick(selection, this._pointed, sizes)) {
      return this.board.pairsAfter(bestWorstVote(best, this._pointed, left));
    }
    const others = pairs.filter((pair) => pair.chosen !== best && pair.rejected !== best);
    const room = Math.max(this.board.pairsPerGroup - 1, selection.pairs.length);
    return [...others.slice(0, room), { chosen: best, rejected: null }];
  }

  get hint() {
    const { selection, sizes, ids } = this.board.model;
    if (ids.length < 2) return "Two images or more are needed to pick a best and a worst.";
    const pair = `Pair ${selection.pairs.length + 1} of ${selection.goal}. `;
    const turn = selection.goal > 1 ? pair : "";
    if (selection.phase === "best") return `${turn}Click the best image.`;
    if (selection.phase === "worst") {
      const { best } = selection;
      if (this._pointed && this._pointed !== best && !oneSize(sizes, best, this._pointed)) {
        return `${turn}This one has another size and makes no pair with the best.`;
      }
      return `${turn}Now click the worst.`;
    }
    return this.board.doneText(selection.mayGoOn ? "or go on" : "");
  }

  update() {
    const { selection, sizes } = this.board.model;
    const shown = badges(this.pairs);
    const isDone = selection.phase === "done";
    const may = (tile) => mayPick(selection, tile.id, sizes);
    for (const tile of this.grid.tiles) {
      const used = selection.used.get(tile.id);
      const isBest = tile.id === selection.best;
      tile.show({
        badge: isBest ? OPEN_BEST : badgeShown(shown.get(tile.id), !used),
        mark: isBest ? "picked" : used ? (isDone ? used.role : "used") : may(tile) ? "" : "rest",
        told: isBest ? "picked as the best" : used ? `${used.role} of pair ${used.pair}` : "",
        pressed: isBest || Boolean(used),
      });
    }
    setHidden(this.goOn, !selection.mayGoOn);
  }

  onKey(event) {
    const digit = "123456789".indexOf(event.key);
    const tile = digit >= 0 ? this.grid.tiles[digit] : null;
    if (tile) {
      tile.button.click();
      return true;
    }
    if (event.key.toLowerCase() === "g") {
      this.board.goOn();
      return true;
    }
    return this.grid.onKey(event);
  }

  _pick(id) {
    const { selection, sizes } = this.board.model;
    // The pointer still is on what was just picked: it says nothing about the next pick.
    if (mayPick(selection, id, sizes)) this._pointed = null;
    this.board.pick(id);
  }
}

const OPEN_BEST = { role: "chosen", text: "Best", told: "", open: true };
