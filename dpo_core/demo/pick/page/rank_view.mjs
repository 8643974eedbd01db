// Groups of pictures, ranked one after the other.

import { action, choice, counted, Turner } from "./parts.mjs";
import { newId } from "./ranking/http_port.mjs";
import { el, setData, setHidden, setText } from "./element.mjs";
import { RankingWidget } from "./ranking/view/ranking_widget.mjs";

const MODES = {
  best_worst: "Best and worst",
  rank: "Order",
  side_by_side: "Two at a time",
  thumbs: "Good or bad",
};
const KEPT = "dpo.pick.mode";

export class RankView {
  constructor(port, go) {
    this._go = go;
    this._turner = new Turner(
      () => this._state && this._showGroups(this._state),
      () => this._allDone(),
    );
    const words = {
      empty: "The model is drawing the first pictures…",
      next: "Take another group, or train",
      noAnswer: "The demo does not answer.",
    };
    const valueChanged = ({ set_id }) => {
      this._turner.saved(set_id);
      go.refresh();
    };
    this._widget = new RankingWidget({ ...port, words, valueChanged }, newId);
    this._turner.attach(this._widget);
    this._groups = el("ol", { className: "groups" });
    this._groups.setAttribute("aria-label", "Groups of pictures");
    this._count = el("p", { className: "dim" });
    this._note = el("p", { className: "dim", role: "status" });
    this._trainButton = action("Train on my picks", () => go.ask("/demo/train"), "main");
    this._moreButton = action("More pictures", () => this._more());
    this._modes = {};
    for (const [mode, label] of Object.entries(MODES)) {
      this._modes[mode] = choice(label, () => this._setMode(mode));
    }
    const modes = el("div", { className: "modes", role: "group" }, ...Object.values(this._modes));
    modes.setAttribute("aria-label", "How to rank");
    const head = el("div", { className: "row" }, this._groups, this._count, modes);
    const place = el("div", { className: "widget" }, this._widget.element);
    const buttons = el("div", { className: "buttons" }, this._moreButton, this._trainButton);
    const foot = el("div", { className: "row" }, this._note, buttons);
    const lead = el("p", {
      className: "dim",
      textContent:
        "A small model has drawn these. Pick what you like, by whatever taste you have: " +
        "light, height of the horizon, tidiness. It will learn from your picks alone.",
    });
    this.element = el("div", {}, lead, head, place, foot);
    this.element.className = "section";
    this._setMode(keptMode());
  }

  enter() {
    this._widget.element.querySelector(".dpo-board")?.focus({ preventScroll: true });
  }

  update(state) {
    this._state = state;
    const sets = state.groups.map((one) => ({ id: one.set_id, closed: one.ranked }));
    if (sets.length) this._turner.update(state.session, sets);
    this._showGroups(state);
    const ranked = state.groups.filter((one) => this._turner.isClosed(one.set_id)).length;
    setText(this._count, `${ranked} of ${counted(state.wanted, "group")}`);
    setText(this._note, noteOf(state));
    this._trainButton.disabled = Boolean(state.job) || state.pairs < state.min_pairs;
    setHidden(this._moreButton, ranked < state.wanted);
    this._moreButton.disabled = Boolean(state.job);
  }

  async _more() {
    if (!(await this._go.ask("/demo/more"))) return;
    this._turner.goOn();
    this.enter();
  }

  // Some may still be drawn: they come by themselves.
  _allDone() {
    const { groups, wanted } = this._state;
    if (groups.length === wanted) this._trainButton.focus();
  }

  _setMode(mode) {
    if (mode !== this._mode) keepMode(mode);
    this._mode = mode;
    for (const [name, button] of Object.entries(this._modes)) {
      button.setAttribute("aria-pressed", String(name === mode));
    }
    this._widget.board.setMode(mode);
  }

  _showGroups({ groups, wanted }) {
    while (this._groups.children.length > wanted) this._groups.lastChild.remove();
    while (this._groups.children.length < wanted) this._groups.append(this._groupButton());
    [...this._groups.children].forEach((item, i) => {
      const button = item.firstChild;
      const id = groups[i]?.set_id;
      const ranked = id && this._turner.isClosed(id);
      const said = !id ? "not drawn yet" : ranked ? "ranked" : "not ranked yet";
      const label = `Group ${i + 1}, ${said}`;
      if (button.title !== label) {
        button.title = label;
        button.setAttribute("aria-label", label);
      }
      button.dataset.set = id ?? "";
      button.disabled = !id;
      setData(button, "ranked", ranked ? "yes" : "");
      button.setAttribute("aria-current", String(Boolean(id) && id === this._turner.current));
    });
  }

  _groupButton() {
    const onclick = (event) => this._turner.show(event.currentTarget.dataset.set);
    return el("li", {}, el("button", { type: "button", className: "group", onclick }));
  }
}

function noteOf({ pairs, min_pairs, job, groups, wanted, result }) {
  if (job?.stage === "drawing pictures" && groups.length < wanted) {
    return `Drawing pictures: ${groups.length} of ${counted(wanted, "group")}.`;
  }
  if (pairs < min_pairs) {
    return `${counted(pairs, "pair")} so far; ${min_pairs} are needed to train.`;
  }
  const more = result ? ", and goes on from the last training" : "";
  return `${counted(pairs, "pair")} to train on. It takes about a minute${more}.`;
}

function keepMode(mode) {
  try {
    localStorage.setItem(KEPT, mode);
  } catch {
    // Only the next visit would have known.
  }
}

function keptMode() {
  try {
    const mode = localStorage.getItem(KEPT);
    return mode in MODES ? mode : "best_worst";
  } catch {
    return "best_worst";
  }
}
