// One group after the other on the ranking widget.

import { button, el, setHidden, setText } from "../../element.mjs";
import { RankingWidget } from "../../ranking/view/ranking_widget.mjs";
import { copies, counted } from "../words.mjs";
import { select } from "./group_list.mjs";

const MODES = {
  best_worst: "Best and worst",
  rank: "Order",
  side_by_side: "Two at a time",
  thumbs: "Good or bad",
};
const MOST_PAIRS = 8;
const ASIDE = {
  skip: "was skipped.",
  finish: "counts as ranked.",
};

export class RankDesk {
  /**
   * @param port of the widget's board, see `Board`
   * @param {{isFull(): boolean, toggle()}} full
   */
  constructor(port, newId, full) {
    const words = { empty: "", next: "The next group comes" };
    this._widget = new RankingWidget(
      {
        ...port,
        words,
        full,
        shown: () => {},
        valueChanged: () => this.desk.saved(),
      },
      newId,
    );
    this._mode = select("How to rank", MODES, (mode) => this._set({ mode }));
    const numbers = Array.from({ length: MOST_PAIRS }, (_, i) => i + 1);
    const pairs = Object.fromEntries(numbers.map((n) => [n, counted(n, "pair")]));
    this._pairs = select("Pairs from each group", pairs, (n) => this._set({ pairsPerGroup: Number(n) }));
    this._goOn = el("input", { type: "checkbox", onchange: () => this._set({ goOn: this._goOn.checked }) });
    const goOn = el("label", { className: "dpo-curation-check" }, this._goOn, "Go on by itself");
    this._title = el("p", { className: "dpo-curation-dim" });
    this._note = el("p", { className: "dpo-curation-note", role: "status" });
    this._prompt = el("textarea", { className: "dpo-curation-field", rows: 3 });
    this._prompt.setAttribute("aria-label", "Prompt of these images");
    this._samples = el("div", { className: "dpo-curation-samples" });
    const give = button({
      label: "Use this prompt for the group",
      text: "Use this prompt",
      className: "dpo-main",
      onclick: () => this.desk.givePrompt(this._prompt.value),
    });
    this._unnamed = el(
      "div",
      { className: "dpo-curation-unnamed" },
      this._samples,
      el("p", {
        textContent:
          "These images do not tell what they were made with. Write their prompt, or leave it " +
          "empty to train without one.",
      }),
      this._prompt,
      give,
    );
    this._end = el("p", { className: "dpo-curation-end", role: "status" });
    this._back = button({ label: "Group before", sign: "older", onclick: () => this.desk.back() });
    this._skip = button({ label: "Skip this group", text: "Skip", key: "X", onclick: () => this.desk.skip() });
    this._enough = button({ label: "Enough of this group", text: "Enough", key: "E", onclick: () => this.desk.finish() });
    this._next = button({ label: "Next group", text: "Next", key: "M", className: "dpo-main", onclick: () => this.desk.next() });
    this._asideText = el("span");
    this._aside = el(
      "div",
      { className: "dpo-curation-aside", role: "status" },
      this._asideText,
      button({ label: "Take that back", text: "Take back", sign: "undo", onclick: () => this.desk.takeBack() }),
    );
    this.element = el(
      "div",
      { className: "dpo-curation-desk" },
      el("div", { className: "dpo-curation-tools" }, this._mode, this._pairs, goOn),
      this._title,
      this._note,
      this._widget.element,
      this._unnamed,
      this._end,
      this._aside,
      el("div", { className: "dpo-curation-foot" }, this._back, this._skip, this._enough, this._next),
    );
    this._imageUrl = port.imageUrl;
  }

  /** The desk tells what to show. */
  attach(desk) {
    this.desk = desk;
    this._applySettings();
  }

  show(reference) {
    if (reference) this._widget.board.show(reference);
    else this._widget.board.clear();
  }

  isDone() {
    return Boolean(this._widget.board.set) && this._widget.board.isDone;
  }

  focus() {
    this._widget.element.querySelector(".dpo-board")?.focus({ preventScroll: true });
  }

  _set(changes) {
    this.desk.set(changes);
    this._applySettings();
  }

  _applySettings() {
    const { mode, pairsPerGroup, goOn } = this.desk.settings;
    this._mode.value = mode;
    this._pairs.value = String(Math.min(pairsPerGroup, MOST_PAIRS));
    this._goOn.checked = goOn;
    this._widget.board.setMode(mode);
    this._widget.board.setPairsPerGroup(pairsPerGroup);
  }

  update() {
    const { desk } = this;
    const { group, aside } = desk;
    const unnamed = group?.prompt === null;
    setText(this._title, group ? titleOf(group, desk.part) : "");
    setText(this._note, desk.note);
    setHidden(this._note, !desk.note);
    setHidden(this._widget.element, !group || unnamed);
    setHidden(this._unnamed, !unnamed);
    if (unnamed && this._unnamedId !== group.group) this._fillUnnamed(group);
    if (!unnamed) this._unnamedId = null;
    setHidden(this._end, Boolean(group));
    setText(this._end, endText(desk));
    setHidden(this._aside, !aside);
    setText(this._asideText, asideText(aside, group));
    this._back.disabled = desk.busy || !desk.visited.length;
    for (const one of [this._skip, this._enough]) one.disabled = desk.busy || !group;
    this._next.disabled = desk.busy;
  }

  _fillUnnamed(group) {
    this._unnamedId = group.group;
    this._prompt.value = "";
    this._samples.replaceChildren(
      ...group.samples.map(({ thumbnail, url, name }) =>
        el("img", { src: this._imageUrl(thumbnail ?? url), alt: name }),
      ),
    );
  }

  dispose() {
    this._widget.dispose();
  }
}

function titleOf({ count, width, height, copies: folded, parts, finished_early: early }, part) {
  const facts = [`${counted(count, "image")} of ${width} × ${height}`];
  if (folded) facts.push(copies(folded));
  if (parts.length > 1) facts.push(`part ${part + 1} of ${parts.length}`);
  if (early) facts.push("finished early");
  return facts.join(" · ");
}

function asideText(aside, group) {
  if (!aside) return "";
  if (aside.kind === "prompt") return "The prompt was given.";
  return `${aside.group === group?.group ? "This" : "The last"} group ${ASIDE[aside.kind]}`;
}

function endText({ busy, isScanning, counts, settings, progress }) {
  if (busy || !counts) return "Looking for images…";
  if (progress.left && !settings.search) {
    return `${counted(progress.left, "group")} left to rank: Next opens ${progress.left === 1 ? "it" : "one"}.`;
  }
  if (isScanning) return "Nothing to rank yet. The folder is still being looked through.";
  if (settings.search) return "No other group whose prompt has these words is left to rank.";
  const { done, skipped, single } = counts;
  if (!done && !skipped) {
    return single
      ? "Every image here has a prompt or a size of its own: there is nothing to prefer it to."
      : "There are no images to rank in this folder.";
  }
  return `All groups are ranked${skipped ? ", but for those skipped" : ""}.`;
}
