// Two images at a time, in a tournament; then the standings, in which two can be swapped.

import { badges } from "../pair_badge.mjs";
import { button, el, setData, setHidden, setText } from "../../element.mjs";
import { GridView } from "./grid_view.mjs";
import { badgeShown } from "./pair_bar.mjs";
import { TwinFrames } from "./twin_frames.mjs";

export class SideBySideView {
  constructor(board, update) {
    this.board = board;
    this._update = update;
    this._lifted = null;
    this._confirmed = false;
    this.frames = new TwinFrames((side) => this.board.choose(side));
    this.grid = new GridView({ onActivate: (id) => this._lift(id) });
    this._counter = el("span", { className: "dpo-counter" });
    this._progress = el("progress", { className: "dpo-progress" });
    this._progress.setAttribute("aria-label", "Matches played");
    this._head = el("div", { className: "dpo-match" }, this._counter, this._progress);
    const result = (label, text, key, value) =>
      button({ label, text, key, onclick: () => this.board.choose(value) });
    this._choices = el(
      "div",
      { className: "dpo-choices" },
      result("The left image is better", "Left", "←", "left"),
      result("A tie: equally good", "Tie", "T", "tie"),
      result("Skip this match", "Skip", "↓", "skip"),
      result("Both are bad", "Both bad", "B", "both_bad"),
      result("The right image is better", "Right", "→", "right"),
    );
    this.more = button({
      label: "One more match, the one that tells most",
      text: "One more match",
      key: "G",
      onclick: () => this.board.more(),
    });
    this.tools = el("div", { className: "dpo-tools" }, this.more);
    this.element = el(
      "div",
      { className: "dpo-view" },
      this._head,
      this.frames.element,
      this._choices,
      this.grid.element,
    );
    this.keys = [
      ["← →", "the left or the right image is better"],
      ["T", "a tie"],
      ["B", "both are bad"],
      ["↓", "skip"],
      ["+ − 0", "zoom both, whole images"],
    ["Shift + arrows", "move in both when zoomed, as dragging does"],
      ["Enter", "in the standings: pick two images to swap them"],
      ["G", "one more match"],
    ];
  }

  fill(images, nameOf) {
    this._images = new Map(images.map((image) => [image.id, image]));
    this._nameOf = nameOf;
    this._lifted = null;
    this.frames.fill(images);
    this.grid.fill(images, nameOf);
  }

  get pairs() {
    return this.board.pairs;
  }

  get hint() {
    const { tournament, ids } = this.board.model;
    if (!tournament) {
      return ids.length < 2 ? "Two images or more are needed for a match." : "";
    }
    if (tournament.phase === "match") return "Which is better?";
    if (this._lifted) return `${this._nameOf(this._lifted)} changes places with…`;
    return this.board.doneText("or swap two images");
  }

  update() {
    const { tournament } = this.board.model;
    const inMatch = tournament?.phase === "match";
    if (inMatch) this._lifted = null;
    setData(this.element, "phase", inMatch ? "match" : "standings");
    for (const part of [this.frames.element, this._choices]) setHidden(part, !inMatch);
    setHidden(this._head, !tournament);
    setHidden(this.grid.element, inMatch);
    setHidden(this.more, inMatch || !this.board.model.mayPlayMore);
    if (!tournament) return;
    const played = tournament.results.length;
    const match = `Match ${played + 1} of ${tournament.planned}`;
    setText(this._counter, inMatch ? match : `Standings after ${played} matches`);
    this._progress.max = tournament.planned;
    this._progress.value = played;
    if (inMatch) this._showMatch(tournament);
    else this._showStandings(tournament);
  }

  _showMatch(tournament) {
    const { ids } = this.board.model;
    const [left, right] = tournament.queue[0].map((i) => this._images.get(ids[i]));
    this.frames.show(left, right, this._nameOf);
  }

  _showStandings(tournament) {
    const { ids } = this.board.model;
    const { standings } = this.board.set;
    const shown = badges(this.pairs);
    const rated = new Map(standings.map((one) => [one.id, one]));
    this.grid.arrange(tournament.standings.map((i) => ids[i]));
    this.grid.tiles.forEach((tile, i) => {
      const one = rated.get(tile.id);
      const rating = one ? `${one.rating.toFixed(1)} ± ${one.deviation.toFixed(1)}` : "";
      tile.element.title = rating ? `Rating ${rating}` : "";
      tile.show({
        place: String(i + 1),
        badge: badgeShown(shown.get(tile.id)),
        mark: tile.id === this._lifted ? "picked" : "",
        told: `place ${i + 1}`,
        pressed: tile.id === this._lifted,
      });
    });
  }

  onKey(event) {
    const key = event.key.toLowerCase();
    const inMatch = this.board.model.tournament?.phase === "match";
    if (inMatch) {
      const result = {
        arrowleft: "left",
        arrowright: "right",
        arrowdown: "skip",
        t: "tie",
        b: "both_bad",
      }[event.shiftKey ? "" : key];
      if (!result) return this.frames.onKey(event);
      // A key held down would decide matches nobody has seen.
      if (!event.repeat) this.board.choose(result);
      return true;
    }
    if (key === "g") {
      this.board.more();
      return true;
    }
    if (key === "escape" && this._lifted) {
      this._lifted = null;
      this._update();
      return true;
    }
    return this.grid.onKey(event);
  }

  _lift(id) {
    const lifted = this._lifted;
    this._lifted = lifted === null ? id : null;
    if (lifted !== null && lifted !== id) this.board.swap(lifted, id);
    else this._update();
  }
}
