// The DPO_RANKING input of an Online Rounds node: the sets of a round one after the other, then Run.

import { button, el, setHidden, setText } from "./element.mjs";
import { isReference, NodeRanking, SEEN_SECONDS } from "./node_ranking.mjs";

/** The set a round begins with, where the workflow keeps it. */
const ROUND = "dpo_round";
const FIRST_SIZE = [560, 720];
/** More than a ranking asks for: what the node has left over goes to its fields of text, too. */
const LEAST_HEIGHT = 580;

export class NodeRounds extends NodeRanking {
  _build() {
    const { ranking } = this;
    /** Sets that were ranked when last seen: who changes one stays there. */
    this._ranked = new Set();
    this._told = el("span", { role: "status" });
    this._next = button({
      label: "Next set of this round that is not ranked yet",
      text: "Next set",
      key: "M",
      onclick: () => ranking.board.showNextUnranked(),
    });
    this._line = el("div", { className: "dpo-round" }, this._told, this._next);
    const { element } = ranking;
    const panel = element.firstElementChild;
    panel.append(this._line);
    panel.classList.add("dpo-rounds");
    element.classList.add("dpo-in-rounds");
    this._changed();
    return element;
  }

  get firstSize() {
    return FIRST_SIZE;
  }

  get leastHeight() {
    return LEAST_HEIGHT;
  }

  _port() {
    const port = super._port();
    return {
      ...port,
      changed: () => this._changed(),
      valueChanged: (value) => {
        port.valueChanged(value);
        this._saved(value.set_id);
      },
    };
  }

  /** Of a round that is known, the workflow keeps which set is on display. */
  get lastRun() {
    const run = super.lastRun;
    return run && !isSame(run, this.node.properties?.[ROUND]) ? run : undefined;
  }

  showKnown() {
    this._begin(this.lastRun ?? this.node.properties?.[ROUND]);
    super.showKnown();
  }

  arrive(reference) {
    this._begin(reference);
    super.arrive(reference);
  }

  remove() {
    clearTimeout(this._timer);
    super.remove();
  }

  _begin(reference) {
    if (!isReference(reference)) return;
    const { session, set_id } = reference;
    this.ranking.board.since = set_id;
    if (isSame(reference, this.node.properties?.[ROUND])) return;
    this._edit(() => (this.node.properties[ROUND] = { session, set_id }));
  }

  _saved(setId) {
    const { board } = this.ranking;
    // A tournament ends in standings, which are looked at and mended.
    if (this._ranked.has(setId) || !board.isDone || board.mode === "side_by_side") return;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._advance(setId), 1000 * SEEN_SECONDS);
  }

  _advance(setId) {
    const { board } = this.ranking;
    if (board.reference?.set_id !== setId || !board.isDone) return;
    if (board.newer ?? board.nextUnranked) board.showNextUnranked();
    else this.ranking.leaveFull();
  }

  _changed() {
    if (!this._line) return;
    const { board } = this.ranking;
    this._remember();
    const more = board.unranked.length > 0;
    board.words.next = more ? "Take the next set" : "Run the workflow";
    setHidden(this._line, !board.set);
    setText(this._told, roundText(board));
    setHidden(this._next, !more);
  }

  _remember() {
    const { isDone, model, reference, unsaved } = this.ranking.board;
    if (!model || unsaved) return;
    if (isDone) this._ranked.add(reference.set_id);
    else if (!model.votes.length) this._ranked.delete(reference.set_id);
  }
}

/** Where the round on display stands. */
function roundText({ asked, set }) {
  if (!set) return "";
  if (!asked.some((one) => one.set_id === set.set_id)) return "Of an earlier round.";
  if (set.votes.some((one) => one.by)) {
    return "Ranked by a judge. What you choose here instead counts in later rounds.";
  }
  const ranked = asked.filter((one) => one.votes).length;
  if (ranked < asked.length) return `${ranked} of ${asked.length} sets of this round ranked.`;
  return `${allOf(asked.length)} ranked: run the workflow.`;
}

function allOf(count) {
  if (count === 1) return "The set of this round is";
  return `${count === 2 ? "Both" : `All ${count}`} sets of this round are`;
}

function isSame(one, other) {
  return one?.session === other?.session && one?.set_id === other?.set_id;
}
