// The DPO_RANKING input of a Blind Compare node: couple after couple, then the reveal.

import { api } from "../../../scripts/api.js";
import { button, el, setHidden, setText } from "../element.mjs";
import { http, NodeRanking, SEEN_SECONDS } from "../node_ranking.mjs";
import { Comparison, PICTURES, RESULT } from "./comparison.mjs";
import { ResultView } from "./view/result_view.mjs";
import { progressText } from "./words.mjs";

/** The comparison on display, where the workflow keeps it. */
const COMPARED = "dpo_comparison";
/** More than a ranking asks for: the page shares the node's height with the field of prompts. */
const LEAST_HEIGHT = 480;

export class NodeComparison extends NodeRanking {
  _build() {
    const { ranking } = this;
    ranking.board.setMode("side_by_side");
    this.comparison = new Comparison(http, () => this._update());
    this._result = new ResultView(this.comparison, {
      imageUrl: (url) => api.apiURL(url),
      goOn: () => this._goOn(),
      look: (setId) => this._look(setId),
    });
    this._progress = el("span", { role: "status" });
    this._reveal = button({
      label: "Reveal which of the pictures judged so far are whose",
      text: "Reveal",
      onclick: () => this._revealOrShow(),
    });
    this._bar = el("div", { className: "dpo-compared" }, this._progress, this._reveal);
    this._problem = el("p", { className: "dpo-result-problem", role: "alert" });
    const parts = [ranking.element, this._problem, this._bar, this._result.element];
    const element = el("div", { className: "dpo dpo-comparison" }, ...parts);
    this._update();
    return element;
  }

  get leastHeight() {
    return LEAST_HEIGHT;
  }

  _port() {
    const port = super._port();
    return {
      ...port,
      words: {
        empty: "Run the workflow: the pictures to compare will be here, two at a time.",
        next: "Take the next two",
        noAnswer: "ComfyUI does not answer.",
      },
      valueChanged: (value) => {
        port.valueChanged(value);
        this._saved(value.set_id);
      },
    };
  }

  showKnown() {
    super.showKnown();
    const known = this.lastRun ?? this.node.properties?.[COMPARED];
    if (isComparison(known)) this._show(known);
    else this._clear();
  }

  arrive(reference) {
    super.arrive(reference);
    if (isComparison(reference)) this._show(reference);
  }

  retry() {
    super.retry();
    this.comparison.load();
  }

  remove() {
    clearTimeout(this._timer);
    super.remove();
  }

  async _show({ session, comparison }) {
    const known = this.node.properties?.[COMPARED];
    if (known?.session !== session || known.comparison !== comparison) {
      this._edit(() => (this.node.properties[COMPARED] = { session, comparison }));
    }
    await this.comparison.show({ session, comparison });
    // What was on display may have been answered meanwhile.
    const shown = this._shownSet;
    if (shown && this.comparison.isAnswered(shown)) this._turn(this.comparison.next(shown));
  }

  _clear() {
    this.comparison.clear();
    this._update();
  }

  get _shownSet() {
    return this.ranking.board.reference?.set_id;
  }

  async _saved(setId) {
    const { comparison } = this;
    const was = comparison.isAnswered(setId);
    await comparison.load();
    // Who changes an answer, or takes it back, stays there.
    if (was || !comparison.isAnswered(setId)) return;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._advance(setId), 1000 * SEEN_SECONDS);
  }

  _advance(setId) {
    const { board } = this.ranking;
    if (setId !== this._shownSet || !board.isDone) return;
    const next = this.comparison.next(setId);
    if (next) {
      this._turn(next);
      return;
    }
    this.ranking.leaveFull();
    this.comparison.turnTo(RESULT);
  }

  _turn(setId) {
    const { session } = this.comparison.reference;
    if (setId) this.ranking.board.show({ session, set_id: setId });
  }

  _look(setId) {
    this._turn(setId);
    this.comparison.turnTo(PICTURES);
  }

  _goOn() {
    const { comparison } = this;
    if (comparison.isAnswered(this._shownSet)) this._turn(comparison.next(this._shownSet));
    comparison.turnTo(PICTURES);
  }

  // The button below the pictures reveals, or leads to what is revealed already.
  _revealOrShow() {
    if (this.comparison.mayReveal) this.comparison.reveal();
    else this.comparison.turnTo(RESULT);
  }

  _update() {
    const { comparison, ranking } = this;
    const { view, screen, problem } = comparison;
    const inResult = Boolean(view) && screen === RESULT;
    setHidden(ranking.element, inResult);
    setHidden(this._result.element, !inResult);
    setHidden(this._bar, inResult || !view);
    setText(this._progress, progressText(comparison));
    const { mayReveal, revealing } = comparison;
    setText(this._reveal.lastChild, mayReveal || !view?.result ? "Reveal" : "Show the result");
    this._reveal.disabled = revealing || !(mayReveal || view?.result);
    setText(this._problem, problem);
    setHidden(this._problem, !problem || inResult);
    this._result.update();
  }
}

function isComparison(value) {
  return typeof value?.session === "string" && typeof value.comparison === "string";
}
