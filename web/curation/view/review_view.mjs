// The review of pairs: what is odd, filters, the pairs side by side, and changes.

import { button, el, setHidden, setText } from "../../element.mjs";
import { TwinFrames } from "../../ranking/view/twin_frames.mjs";
import { AGREEMENTS, GAPS, ORDERS, PROBLEMS, READING, TIMES } from "../review.mjs";
import { counted } from "../words.mjs";
import { bars } from "./bars.mjs";
import { select } from "./group_list.mjs";
import { pairCard } from "./pair_card.mjs";

const MOST_BARS = 12;
const KINDS = {
  remove: "Removed",
  flip: "Turned round",
  prompt: "Prompt changed",
  drop: "Put aside",
  mend: "Made a pair",
};
/** Warnings whose sentence says how many there are. */
const COUNTED = ["few_pairs", "one_prompt"];
/** What a warning's button shows. */
const SHOWN_BY = { unsure: { agreement: "unsure", order: "unsure" } };

export class ReviewView {
  /**
   * @param review see `Review`
   * @param imageUrl(url) makes an address absolute
   * @param host() the element that dialogs are put into
   */
  constructor(review, imageUrl, host) {
    this.review = review;
    this._imageUrl = imageUrl;
    this._host = host;
    this._count = el("p", { className: "dpo-curation-dim", role: "status" });
    this._problem = el("p", { className: "dpo-curation-problem", role: "alert" });
    this._note = el("span");
    this._undo = button({ label: "Undo the last change", text: "Undo", sign: "undo", onclick: () => this._takeBack() });
    this._noteBar = el("div", { className: "dpo-curation-aside", role: "status" }, this._note, this._undo);
    this._warnings = el("ul", { className: "dpo-review-warnings" });
    this._warnings.setAttribute("aria-label", "Worth a look");
    this._buildFilters();
    this._list = el("ul", { className: "dpo-review-pairs" });
    this._list.setAttribute("aria-label", "Pairs");
    this._more = button({ label: "Show more pairs", text: "More", onclick: () => review.more() });
    this._distributions = fold("Distributions");
    this._orphans = fold("Without a partner, or gone");
    this._edits = fold("Changes");
    this.element = el(
      "div",
      { className: "dpo-review" },
      this._warnings,
      this._filters,
      this._count,
      this._problem,
      this._noteBar,
      this._list,
      this._more,
      this._distributions,
      this._orphans,
      this._edits,
    );
    this._buildDialog();
  }

  _buildFilters() {
    const { review } = this;
    const choice = (label, name, options) =>
      (this._fields[name] = select(label, options, (value) => review.arrange({ [name]: value })));
    this._fields = {};
    const search = el("input", {
      type: "search",
      className: "dpo-curation-field",
      placeholder: "Search prompts",
      onchange: () => review.arrange({ prompt: search.value }),
    });
    search.setAttribute("aria-label", "Search prompts");
    this._fields.prompt = search;
    this._clear = button({ label: "Show all pairs", text: "Show all", onclick: () => review.clearFilter() });
    this._filters = el(
      "div",
      { className: "dpo-curation-tools" },
      search,
      choice("In the order", "order", ORDERS),
      choice("Odd pairs", "problem", { "": "All pairs", ...PROBLEMS }),
      choice("Agreement", "agreement", AGREEMENTS),
      choice("Rating gap", "gap", GAPS),
      choice("Chosen when", "time", TIMES),
      choice("Split", "split", { "": "Train and val", train: "Train", val: "Val" }),
      this._clear,
    );
  }

  _buildDialog() {
    this._twins = new TwinFrames(() => {}, (side) => (side === "left" ? "Chosen image" : "Rejected image"));
    this._dialogPrompt = el("p", { dir: "auto" });
    const close = button({ label: "Close", sign: "close", className: "dpo-quiet", onclick: () => this._dialog.close() });
    this._dialog = el(
      "dialog",
      { className: "dpo dpo-review-dialog" },
      el("div", { className: "dpo-curation-head" }, el("span", { textContent: "Chosen" }), this._dialogPrompt, el("span", { textContent: "Rejected" }), close),
      this._twins.element,
    );
    this._dialog.setAttribute("aria-label", "A pair, side by side");
    this._dialog.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (this._twins.onKey(event)) event.preventDefault();
    });
    this._dialog.addEventListener("close", () => this._dialog.remove());
  }

  _compare(pair) {
    this._host().append(this._dialog);
    this._dialog.showModal();
    setText(this._dialogPrompt, pair.prompt ?? "");
    const sides = [pair.chosen, pair.rejected].map((image) => ({ ...image, url: this._imageUrl(image.url) }));
    this._twins.show(...sides);
  }

  _takeBack() {
    const [last] = this.review.edits;
    if (last) this.review.undo(last);
  }

  update() {
    const { review } = this;
    const { total, all, pairs, filter } = review;
    setText(this._count, countText(review));
    setText(this._problem, review.problem);
    setHidden(this._problem, !review.problem);
    setText(this._note, review.note);
    setHidden(this._noteBar, !review.note);
    setHidden(this._undo, !review.edits.length);
    setHidden(this._filters, !all);
    setHidden(this._clear, !review.isFiltered);
    setHidden(this._fields.split, !review.isFolder);
    setHidden(this._more, pairs.length >= total);
    for (const [name, field] of Object.entries(this._fields)) {
      const value = name === "order" ? review.order : filter[name];
      if (field.value !== value) field.value = value;
    }
    this._fill("pairs", pairs, () => this._showPairs(pairs));
    this._fill("statistics", review.statistics, () => this._showStatistics(review.statistics));
    this._fill("orphans", review.orphans, () => this._showOrphans(review.orphans));
    this._fill("edits", review.edits, () => this._showEdits(review.edits));
  }

  // Only what has changed is drawn: a list keeps its focus and its place.
  _fill(name, value, draw) {
    this._drawn ??= {};
    if (this._drawn[name] === value) return;
    this._drawn[name] = value;
    draw();
  }

  _showPairs(pairs) {
    const { review } = this;
    const focused = document.activeElement;
    const at = [...this._list.children].findIndex((card) => card.contains(focused));
    const on = {
      compare: (pair) => this._compare(pair),
      flip: (pair) => review.flip(pair),
      remove: (pair) => review.remove(pair),
      prompt: (pair, text) => review.setPrompt(pair, text),
    };
    // A pair that is as it was keeps its card: a prompt may be half written on it.
    const cards = new Map();
    for (const pair of pairs) {
      const key = JSON.stringify([review.source, pair]);
      cards.set(key, this._cards?.get(key) ?? pairCard(pair, this._imageUrl, on));
    }
    this._cards = cards;
    this._list.replaceChildren(...cards.values());
    if (at < 0) return;
    const here = this._list.contains(focused) ? focused : null;
    (here ?? (this._list.children[at] ?? this._list.lastChild)?.querySelector("button"))?.focus();
  }

  _showStatistics(statistics) {
    const found = statistics?.warnings ?? [];
    this._warnings.replaceChildren(...found.map((one) => this._warning(one)));
    setHidden(this._warnings, !found.length);
    setHidden(this._distributions, !statistics?.pairs);
    if (!statistics?.pairs) return;
    const { prompts, sizes, aspects, splits, agreement, distinct_prompts: distinct } = statistics;
    const named = prompts.map(({ prompt, pairs }) => [prompt || "No prompt", pairs]);
    const split = Object.entries(splits).filter(([, number]) => number);
    const sure = agreement.map((number, i) => [`${50 + 5 * i} to ${55 + 5 * i} %`, number]);
    const parts = [
      bars(counted(distinct, "prompt"), named.slice(0, MOST_BARS)),
      bars("Sizes", sizes.map(({ width, height, pairs }) => [`${width} × ${height}`, pairs]).slice(0, MOST_BARS)),
      bars("Aspects", aspects.map(({ aspect, pairs }) => [aspect, pairs])),
      bars("Train and val", split),
      bars("Agreement: how sure the chosen image is the better one", sure.reverse()),
    ];
    this._distributions.lastChild.replaceChildren(...parts.filter(Boolean));
  }

  _warning({ kind, text, count, pairs }) {
    const many = count > 1 && !COUNTED.includes(kind);
    const line = el("span", { textContent: many ? `${text} (${count})` : text });
    const filter = kind in PROBLEMS ? { problem: kind } : SHOWN_BY[kind];
    if (!filter || !pairs.length) return el("li", {}, line);
    const show = button({ label: `Show: ${text}`, text: "Show", className: "dpo-quiet", onclick: () => this.review.arrange(filter) });
    return el("li", {}, line, show);
  }

  _showOrphans(orphans) {
    const lines = this.review.isFolder ? this._alone(orphans) : this._gone(orphans);
    setHidden(this._orphans, !lines.length);
    this._orphans.lastChild.replaceChildren(...lines);
  }

  _gone(orphans) {
    if (!orphans?.missing_total) return [];
    const text = `${counted(orphans.missing_total, "image")} of this session are gone from the disk.`;
    const mend = button({ label: "Store the missing images anew", text: "Find them again", onclick: () => this.review.mend() });
    return [el("p", { textContent: text }), mend];
  }

  /** One of each side can be chosen, to make a pair of them. */
  _alone(orphans) {
    if (!orphans?.total || READING.includes(orphans.state)) return []; // a partner may come
    const chosen = {};
    const join = button({
      label: "Make the two a pair",
      text: "Make the two a pair",
      className: "dpo-main",
      onclick: () => this.review.join(chosen.chosen, chosen.rejected),
    });
    join.disabled = true;
    const item = ({ side, pair, image }) => {
      const mark = el("input", {
        type: "radio",
        name: `dpo-orphan-${side}`,
        onchange: () => {
          chosen[side] = image.id;
          join.disabled = !(chosen.chosen && chosen.rejected);
        },
      });
      return el(
        "li",
        {},
        el("label", {}, mark, el("img", { src: this._imageUrl(image.thumbnail ?? image.url), alt: "", loading: "lazy" }), el("span", { textContent: `${side}: ${pair}` })),
        button({ label: `Put ${image.name} aside`, text: "Put aside", onclick: () => this.review.drop(image.id) }),
      );
    };
    const list = el("ul", { className: "dpo-review-orphans" }, ...orphans.orphans.map(item));
    return [el("p", { textContent: `${counted(orphans.total, "image")} without a partner.` }), list, join];
  }

  /** What a change was about: a session's sets have no names, so it is told by when. */
  _subject({ what, place, at }) {
    return what || (this.review.isFolder ? place : new Date(at).toLocaleString());
  }

  _showEdits(edits) {
    setHidden(this._edits, !edits.length);
    const item = (edit) => {
      const text = `${KINDS[edit.kind] ?? edit.kind}: ${this._subject(edit)}`;
      const undo = button({ label: `Take back: ${text}`, text: "Take back", onclick: () => this.review.undo(edit) });
      return el("li", {}, el("span", { dir: "auto", textContent: text }), undo);
    };
    this._edits.lastChild.replaceChildren(el("ul", { className: "dpo-review-edits" }, ...edits.map(item)));
  }
}

function countText({ source, total, all, isFiltered, isFolder, isReading, problem }) {
  if (!source || problem) return "";
  if (isReading) return `${counted(all, "pair")} so far: the folder is still being read.`;
  if (!all) {
    return isFolder
      ? "No pairs here: a pair folder has chosen and rejected images of the same names, in folders chosen and rejected."
      : "No pairs in this session yet.";
  }
  const count = isFiltered ? `${counted(total, "pair")} of ${all}` : counted(all, "pair");
  const { pairsPerGroup = 1 } = source;
  if (pairsPerGroup === 1) return count;
  return `${count}, up to ${pairsPerGroup} of each group: set pairs_per_group of Load Preferences to ${pairsPerGroup}, too.`;
}

function fold(title) {
  return el("details", { className: "dpo-review-fold" }, el("summary", { textContent: title }), el("div", {}));
}
