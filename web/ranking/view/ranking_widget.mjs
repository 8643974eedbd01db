// The ranking widget: one board on the page, in a node or full screen. It knows no host: what is
// outside comes through the port of `Board`, and
//
//   imageUrl(url)               makes an address absolute
//   changed()                   optional: called after every change, before it is drawn
//   full.isFull(), .toggle()    optional: of a host with a full screen of its own

import { Board } from "../board.mjs";
import { describe } from "../vote.mjs";
import { BestWorstView } from "./best_worst_view.mjs";
import { button, el, icon, setData, setHidden, setText } from "../../element.mjs";
import { PairBar } from "./pair_bar.mjs";
import { RankView } from "./rank_view.mjs";
import { SideBySideView } from "./side_by_side_view.mjs";
import { ThumbsView } from "./thumbs_view.mjs";

const VIEWS = {
  best_worst: BestWorstView,
  rank: RankView,
  side_by_side: SideBySideView,
  thumbs: ThumbsView,
};

export class RankingWidget {
  /** @param {() => string} newId ids of votes; see `Board` */
  constructor(port, newId) {
    this._port = port;
    this.board = new Board(port, newId, () => this._update());
    this._views = {};
    this._filled = new Map();
    this._images = new Map();
    this._build();
    this._update();
  }

  /** Images of a run: they are shown, unless that would take others from under the pointer. */
  arrive(reference) {
    this.board.arrive(reference, this._stage.matches(":hover"));
  }

  leaveFull() {
    if (this.isFull) this._toggleFull();
  }

  nameOf = (id) => `Image ${1 + (this.board.set?.images.findIndex((one) => one.id === id) ?? -1)}`;

  dispose() {
    this.board.dispose();
    this._dialog.remove();
  }

  // Building, once

  _build() {
    this._buildHead();
    this._stage = el("div", { className: "dpo-stage" });
    this._empty = el("p", { className: "dpo-empty" });
    this._reload = button({
      label: "Try again",
      text: "Try again",
      onclick: () => this.board.load(),
    });
    this._blank = el("div", { className: "dpo-blank" }, this._empty, this._reload);
    this._buildFoot();
    this._panel = el(
      "div",
      { className: "dpo-board", tabIndex: -1, role: "region" },
      this._head,
      this._prompt,
      this._waitingBar,
      this._newerBar,
      this._unrankedBar,
      this._stage,
      this._blank,
      this._foot,
    );
    this._panel.setAttribute("aria-label", "Ranking");
    this._panel.addEventListener("keydown", (event) => this._onKey(event));
    this._panel.addEventListener("keyup", (event) => event.stopPropagation());
    this.element = el("div", { className: "dpo dpo-ranking" }, this._panel);
    this._buildDialog();
  }

  _buildHead() {
    const turn = (by, label, sign) =>
      button({
        label,
        sign,
        className: "dpo-quiet",
        onclick: () => this.board.show(this.board.neighbour(by)),
      });
    this._newerButton = turn(-1, "Newer images of this session", "newer");
    this._olderButton = turn(1, "Older images of this session", "older");
    this._setCount = el("span", { className: "dpo-set-count" });
    this._sets = el(
      "div",
      { className: "dpo-sets" },
      this._olderButton,
      this._setCount,
      this._newerButton,
    );
    this._promptText = el("span", { dir: "auto" });
    this._promptFold = el("button", {
      type: "button",
      className: "dpo-prompt-fold",
      onclick: () => this._foldPrompt(),
    });
    this._promptFold.append(this._promptText);
    this._prompt = this._promptFold;
    this._fullButton = button({
      label: "Full screen",
      sign: "full",
      key: "F",
      className: "dpo-quiet dpo-full-button",
      onclick: () => this._toggleFull(),
    });
    this._fullButton.querySelector("kbd").remove();
    this._hint = el("p", { className: "dpo-hint", role: "status" });
    this._hint.setAttribute("aria-live", "polite");
    this._head = el(
      "div",
      { className: "dpo-head" },
      this._hint,
      this._sets,
      this._fullButton,
    );
    this._done = button({
      label: "Done: let the run go on",
      text: "Done",
      className: "dpo-main",
      onclick: () => this.board.finishWaiting(),
    });
    this._waitingBar = el(
      "div",
      { className: "dpo-bar dpo-waiting", role: "status" },
      el("span", { textContent: "The run is waiting for you." }),
      this._done,
    );
    this._newerBar = el(
      "div",
      { className: "dpo-bar", role: "status" },
      el("span", { textContent: "New images have come." }),
      button({
        label: "Show the new images",
        text: "Show them",
        onclick: () => this.board.show(this.board.newer),
      }),
    );
    this._unrankedCount = el("span");
    this._nextButton = button({
      label: "Next images that are not ranked yet",
      text: "Next",
      key: "M",
      onclick: () => this.board.showNextUnranked(),
    });
    this._unrankedBar = el(
      "div",
      { className: "dpo-bar dpo-unranked", role: "status" },
      this._unrankedCount,
      this._nextButton,
    );
  }

  _buildFoot() {
    this._pairs = new PairBar();
    this._undo = button({ label: "Undo", sign: "undo", key: "Z", onclick: () => this._stepBack() });
    const redo = () => this.board.redo();
    this._redo = button({ label: "Redo", sign: "redo", key: "Y", onclick: redo });
    this._toolsPlace = el("div", { className: "dpo-tools-place" });
    this._stepsList = el("ol", { className: "dpo-steps-list" });
    this._steps = fold("Steps", this._stepsList);
    this._steps.addEventListener("toggle", () => this._showSteps());
    this._keysList = el("dl", { className: "dpo-keys-list" });
    this._keys = fold("Keys", this._keysList);
    this._saved = el("span", { className: "dpo-saved", role: "status" });
    this._saved.setAttribute("aria-live", "polite");
    this._retry = button({
      label: "Save again",
      text: "Save again",
      onclick: () => this.board.retry(),
    });
    this._discard = button({
      label: "Give up this choice",
      text: "Give it up",
      onclick: () => this.board.discard(),
    });
    this._savedBar = el(
      "div",
      { className: "dpo-save" },
      this._saved,
      this._retry,
      this._discard,
    );
    const row = el(
      "div",
      { className: "dpo-row" },
      this._undo,
      this._redo,
      this._steps,
      this._keys,
      this._toolsPlace,
    );
    const line = el("div", { className: "dpo-line" }, this._pairs.element, this._savedBar);
    this._foot = el("div", { className: "dpo-foot" }, line, row);
  }

  _buildDialog() {
    this._dialog = el("dialog", { className: "dpo dpo-dialog" });
    this._dialog.setAttribute("aria-label", "Ranking, full screen");
    this._dialog.addEventListener("close", () => this._bringBack());
    // What is behind a full screen does not hear its keys.
    this._dialog.addEventListener("keydown", (event) => event.stopPropagation());
    for (const name of ["pointerdown", "wheel", "contextmenu", "paste", "copy"]) {
      this._dialog.addEventListener(name, (event) => event.stopPropagation());
    }
  }

  // Drawing, after every change

  _update() {
    if (!this._panel) return;
    this._port.changed?.();
    const { board } = this;
    const view = board.set ? this._view() : null;
    if (view !== this._shownView) this._changeView(view);
    setHidden(this._stage, !view);
    setHidden(this._foot, !view && !board.unsaved);
    setHidden(this._blank, Boolean(view));
    setText(this._empty, this._emptyText());
    setHidden(this._reload, !board.problem);
    this._updateHead(view);
    if (view) {
      view.update();
      const { pairs } = view;
      const open = board.unsaved > 0 || pairs !== board.set.pairs;
      const none = view.nonePaired ?? "No pair yet";
      const { totals } = board.set;
      this._pairs.show(pairs, this._images, this.nameOf, { open, totals, none });
    }
    this._updateFoot();
  }

  _emptyText() {
    if (this.board.problem) return this.board.problem;
    return this.board.reference ? "Loading the images…" : this.board.words.empty;
  }

  _updateHead(view) {
    const { board } = this;
    setText(this._hint, view ? view.hint : "");
    const prompt = board.set?.prompt ?? "";
    setText(this._promptText, prompt);
    setHidden(this._prompt, !prompt || !view);
    this._promptFold.setAttribute("aria-expanded", String(!this._folded));
    this._promptFold.setAttribute("aria-label", `Prompt: ${prompt}`);
    setData(this._promptFold, "folded", this._folded ? "yes" : "");
    setHidden(this._waitingBar, !board.waiting);
    setHidden(this._newerBar, !board.newer);
    const unranked = board.unranked.length;
    setHidden(this._unrankedBar, !view || !unranked || Boolean(board.newer) || !board.isDone);
    setText(this._unrankedCount, unrankedText(unranked));
    const at = board.sets.findIndex((one) => one.set_id === board.reference?.set_id);
    setHidden(this._sets, board.sets.length < 2 || at < 0);
    setText(this._setCount, `${board.sets.length - at}/${board.sets.length}`);
    this._olderButton.disabled = !board.neighbour(1);
    this._newerButton.disabled = !board.neighbour(-1);
  }

  _updateFoot() {
    const { board } = this;
    this._undo.disabled = !board.mayUndo;
    this._redo.disabled = !board.mayRedo;
    const failed = Boolean(board.failure);
    setText(this._saved, this._savedText());
    this._saved.title = failed ? board.failure.message : "";
    const open = board.unsaved > 0 || this._shownView?.isOpen;
    setData(this._savedBar, "state", failed ? "failed" : open ? "saving" : "saved");
    setHidden(this._retry, !failed);
    setHidden(this._discard, !board.failure?.final);
    if (this._steps.open) this._showSteps();
  }

  _savedText() {
    const { unsaved, failure, set, model } = this.board;
    const choices = unsaved === 1 ? "1 choice" : `${unsaved} choices`;
    if (failure) return `${choices} not saved: ${failure.message}`;
    if (unsaved) return "Saving…";
    if (this._shownView?.isOpen) return "Not saved yet";
    return set && model.votes.length ? "Saved" : "";
  }

  _view() {
    const { mode, set } = this.board;
    this._views[mode] ??= new VIEWS[mode](this.board, () => this._update());
    const view = this._views[mode];
    const filling = `${set.session}/${set.set_id}`;
    if (this._filled.get(view) !== filling) {
      const images = set.images.map((image) => this._absolute(image));
      this._images = new Map(images.map((image) => [image.id, image]));
      view.fill(images, this.nameOf);
      this._filled.set(view, filling);
    }
    return view;
  }

  _absolute(image) {
    const made = { ...image, url: this._port.imageUrl(image.url) };
    if (image.thumbnail) made.thumbnail = this._port.imageUrl(image.thumbnail);
    return made;
  }

  _changeView(view) {
    const hadFocus = this._stage.contains(document.activeElement);
    this._shownView = view;
    this._stage.replaceChildren(...(view ? [view.element] : []));
    this._toolsPlace.replaceChildren(...(view ? [view.tools] : []));
    this._keysList.replaceChildren(...(view ? keyRows(view.keys) : []));
    if (hadFocus) this._panel.focus({ preventScroll: true });
  }

  _showSteps() {
    const votes = this.board.model?.votes ?? [];
    const rows = votes.map((one) => {
      const take = button({
        label: `Undo: ${describe(one, this.nameOf)}`,
        sign: "undo",
        className: "dpo-quiet",
        onclick: () => this.board.undoVote(one.id),
      });
      return el("li", {}, el("span", { textContent: describe(one, this.nameOf) }), take);
    });
    const none = el("li", { textContent: "Nothing yet." });
    this._stepsList.replaceChildren(...(rows.length ? rows.reverse() : [none]));
  }

  // Acting

  _onKey(event) {
    // Enter and the space bar press the button in focus; nobody else is to hear of it.
    if (["Enter", " ", "Tab"].includes(event.key) && !event.ctrlKey && !event.metaKey) {
      event.stopPropagation();
      return;
    }
    if (!this._handle(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  _handle(event) {
    const key = event.key.toLowerCase();
    if (event.altKey) return false;
    if (event.ctrlKey || event.metaKey) {
      // In a node they undo the graph's changes, and the page hears of them before we do.
      if (!this.isFull) return false;
      if (key === "z" && event.shiftKey) this.board.redo();
      else if (key === "z") this._stepBack();
      else if (key === "y") this.board.redo();
      else return false;
      return true;
    }
    if (key === "escape" && this._closeFolds()) return true;
    if (this._shownView?.onKey(event)) return true;
    if (key === "z" || key === "backspace") this._stepBack();
    else if (key === "y") this.board.redo();
    else if (key === "f") this._toggleFull();
    else if (key === "p") this._foldPrompt();
    else if (key === "m") this.board.showNextUnranked();
    else return false;
    return true;
  }

  _stepBack() {
    if (this.board.model) this.board.undo();
  }

  _closeFolds() {
    const open = [this._steps, this._keys].filter((one) => one.open);
    for (const one of open) one.open = false;
    return open.length > 0;
  }

  _foldPrompt() {
    this._folded = !this._folded;
    this._update();
  }

  _folded = true;

  get isFull() {
    return this._port.full?.isFull() ?? this._dialog.open;
  }

  _toggleFull() {
    if (this._port.full) {
      this._port.full.toggle();
      return;
    }
    if (this.isFull) {
      this._dialog.close();
      return;
    }
    const focused = document.activeElement;
    document.body.append(this._dialog);
    this._dialog.append(this._panel);
    this._dialog.showModal();
    if (this._panel.contains(focused)) focused.focus({ preventScroll: true });
    else this._panel.focus({ preventScroll: true });
    this._nameFullButton("Leave full screen", "close");
  }

  _nameFullButton(label, sign) {
    this._fullButton.setAttribute("aria-label", label);
    this._fullButton.title = `${label} (F)`;
    this._fullButton.replaceChildren(icon(sign));
  }

  _bringBack() {
    const focused = document.activeElement;
    this.element.append(this._panel);
    this._dialog.remove();
    this._nameFullButton("Full screen", "full");
    const target = this._panel.contains(focused) ? focused : this._fullButton;
    target.focus({ preventScroll: true });
  }
}

function fold(label, content) {
  const summary = el("summary", { className: "dpo-button dpo-quiet", textContent: label });
  const made = el("details", { className: "dpo-fold" }, summary, content);
  return made;
}

const unrankedText = (count) =>
  count === 1 ? "1 batch is not ranked yet." : `${count} batches are not ranked yet.`;

function keyRows(keys) {
  const common = [
    ["M", "more images: the next not ranked yet"],
    ["Z, Y", "undo, redo"],
    ["F", "full screen"],
    ["P", "fold the prompt"],
  ];
  return [...keys, ...common].flatMap(([key, does]) => [
    el("dt", { textContent: key }),
    el("dd", { textContent: does }),
  ]);
}
