// A set of images being ranked: what is shown, what was chosen and what has been saved of it.
//
// No DOM, no network: everything outside comes through the port,
//
//   get(path), post(path, body)  -> {status, body}, status 0 if nothing answered
//   later(seconds, call)         -> cancels it when called
//   kept.all(), .write(id, text), .drop(id)   texts that outlive the page
//   shown(reference)             another set is on display
//   valueChanged(value)          a choice was saved: what the node is run with from now on
//   words                        optional: what the page says of its host, see WORDS

import { NOTHING_PICKED, pick, selection } from "./best_worst.mjs";
import { back, begin, forth, step } from "./history.mjs";
import { mayRetry, readKept, request, retryDelay, votesNow } from "./outbox.mjs";
import { chosenPairs } from "./pair_making.mjs";
import { orderVote, sameOrder, savedOrder } from "./rank_order.mjs";
import { counts, label, labels } from "./thumbs.mjs";
import { reduce, resumed } from "./tournament.mjs";
import { comparisonVote, swapVote, vote } from "./vote.mjs";

export const MODES = ["best_worst", "rank", "side_by_side", "thumbs"];

const FIRST_DRAFT = {
  best_worst: NOTHING_PICKED,
  rank: { order: null },
  side_by_side: { more: false },
  thumbs: {},
};
/** What is said of the host, where its port has no words of its own. */
const WORDS = {
  empty: "Run the workflow: the images to rank will be here.",
  next: "Run the workflow",
  noAnswer: "ComfyUI does not answer.",
};

export class Board {
  /**
   * @param {object} port see above
   * @param {() => string} newId a new id at each call, of 1 to 64 letters, digits and dashes
   * @param {() => void} onChange called after every change
   */
  constructor(port, newId, onChange) {
    this.port = port;
    this.words = { ...WORDS, ...port.words };
    this.newId = newId;
    this.onChange = onChange;
    this.mode = "best_worst";
    this.pairsPerGroup = 1;
    this.reference = null;
    this.set = null;
    this.problem = "";
    this.sets = [];
    this.since = null;
    this.newer = null;
    this.waiting = null;
    this.outbox = [];
    this.failure = null;
    this.draft = begin(FIRST_DRAFT.best_worst);
    this.undone = [];
    this._seen = new Map();
    this._sending = false;
    this._tries = 0;
    this._answers = 0;
    this._model = null;
  }

  /** Everything that follows from the votes, worked out once per change. */
  get model() {
    this._model ??= this.set ? modelOf(this) : null;
    return this._model;
  }

  get unsaved() {
    return this.outbox.length;
  }

  get sending() {
    return this._sending;
  }

  get mayUndo() {
    return this.draft.past.length > 0 || (this.model?.votes.length ?? 0) > 0;
  }

  get mayRedo() {
    return this.draft.future.length > 0 || this.undone.length > 0;
  }

  /** All that was asked for is chosen. */
  get isDone() {
    const { selection, order, tournament, labels: marked } = this.model ?? {};
    if (selection) return selection.phase === "done";
    if (order) return order.flat().length > 1 && !this.orderIsNew;
    if (marked) return counts(marked).none === 0;
    return tournament?.phase === "standings";
  }

  /** The pairs that the votes make, with those not saved yet. */
  get pairs() {
    const { model, set } = this;
    model.pairs ??= this._isSaved ? set.pairs : this._pairsOf(model.votes);
    return model.pairs;
  }

  /** The pairs there will be after one more vote of these fields. */
  pairsAfter(fields) {
    return this._pairsOf(votesNow(this.model.votes, [{ op: "vote", vote: fields }]));
  }

  // One choice draws the page several times: with the same votes, the pairs are those known.
  _pairsOf(votes) {
    const asked = JSON.stringify([this.set.set_id, this.pairsPerGroup, votes]);
    if (this._known?.asked !== asked) {
      const pairs = chosenPairs(this.set.images, votes, this.pairsPerGroup);
      this._known = { asked, pairs };
    }
    return this._known.pairs;
  }

  get _isSaved() {
    return !this.outbox.some((entry) => isSame(entry.reference, this.reference));
  }

  /** Something is begun that another set would push off the screen. */
  get busy() {
    if (this.draft.past.length) return true;
    const match = this.model?.tournament;
    return match?.phase === "match" && match.results.length > 0;
  }

  setMode(mode) {
    if (!MODES.includes(mode) || mode === this.mode) return;
    this.mode = mode;
    this._forgetDraft();
    if (this.reference) this.load();
  }

  setPairsPerGroup(count) {
    if (count === this.pairsPerGroup || !(count >= 1)) return;
    this.pairsPerGroup = count;
    if (this.reference) this.load();
  }

  /**
   * A set has come from a run; it waits if the person is in the middle of another one.
   *
   * @param {boolean} watched the pointer is on the images: they are not to change under it
   */
  arrive(reference, watched = false) {
    const same = isSame(reference, this.reference);
    if (!same && this.set && (this.busy || (watched && !this.isDone))) {
      this.newer = reference;
      this._changed();
      this._loadSets();
    } else {
      this.show(reference);
    }
  }

  /** @param {{session: string, set_id: string}} reference */
  show(reference) {
    const { session, set_id } = reference;
    if (isSame(reference, this.newer)) this.newer = null;
    if (!isSame(reference, this.reference)) {
      this.reference = { session, set_id };
      this.set = null;
      this.undone = [];
      this._seen.clear();
      this._takeKept();
      this._forgetDraft();
      this.port.shown(this.reference);
    }
    return this.load();
  }

  /** Nothing is shown any more. */
  clear() {
    this.reference = this.set = this.newer = null;
    this.sets = [];
    this.undone = [];
    this._forgetDraft();
  }

  /** Reads the set from the server. */
  async load() {
    const { reference } = this;
    this.problem = "";
    this._changed();
    const answers = this._answers;
    const { status, body } = await this.port.get(this._setPath());
    if (!isSame(reference, this.reference)) return;
    // An answer to a choice made meanwhile is newer than this one.
    if (answers !== this._answers && this.set) return;
    if (status === 200) {
      this._take(body);
    } else if (!this.set) {
      this.problem = told(body, this.words);
    }
    this._changed();
    this._flush();
    this._loadSets();
  }

  async _loadSets() {
    const { session } = this.reference;
    const { status, body } = await this.port.get(`${folderOf(session)}/sets`);
    if (status === 200 && this.reference?.session === session) {
      this.sets = body.sets;
      this._changed();
    }
  }

  /** What is next when all that was asked for is chosen. */
  doneText(besides) {
    const next = this.waiting ? "Let the run go on" : this.words.next;
    return `Done. ${next}${besides ? `, ${besides}` : ""}.`;
  }

  /** The set `by` places newer (-1) or older (1) in the session; null at the end. */
  neighbour(by) {
    const at = this.sets.findIndex((one) => one.set_id === this.reference?.set_id);
    const other = at < 0 ? null : this.sets[at + by];
    return other ? { session: this.reference.session, set_id: other.set_id } : null;
  }

  /** The sets that are to be ranked, newest first: from `since` on, if that is one of them. */
  get asked() {
    const last = this.sets.findIndex((one) => one.set_id === this.since);
    return last < 0 ? this.sets : this.sets.slice(0, last + 1);
  }

  /** Those of them that nobody has voted on, but for the one on display. */
  get unranked() {
    return this.asked.filter(
      (one) => !one.votes && one.images > 1 && one.set_id !== this.reference?.set_id,
    );
  }

  /** The next of them: what came after the one on display, oldest first, then from the start. */
  get nextUnranked() {
    const at = this.sets.findIndex((one) => one.set_id === this.reference?.set_id);
    const found = this.unranked.findLast((one) => this.sets.indexOf(one) < at);
    const next = found ?? this.unranked.at(-1);
    return next ? { session: this.reference.session, set_id: next.set_id } : null;
  }

  showNextUnranked() {
    const next = this.newer ?? this.nextUnranked;
    if (next) this.show(next);
  }

  // Choices

  pick(image) {
    const meant = pick(this.model.selection, image, this.model.sizes);
    if (meant?.vote) this._cast(meant.vote);
    else if (meant) this._step(meant.draft);
  }

  goOn() {
    if (this.model.selection?.mayGoOn) this._step({ best: null, goOn: true });
  }

  reorder(order) {
    if (!sameOrder(order, this.model.order)) this._step({ order });
  }

  get orderIsNew() {
    const { order, votes, ids } = this.model;
    return order.flat().length > 1 && !sameOrder(order, savedOrder(ids, votes));
  }

  saveOrder() {
    if (this.orderIsNew) this._cast(orderVote(this.model.order, this.model.votes));
  }

  choose(result) {
    const { tournament, ids } = this.model;
    if (tournament?.phase !== "match") return;
    const [left, right] = tournament.queue[0];
    this._cast(comparisonVote(ids[left], ids[right], result));
  }

  more() {
    if (this.model.mayPlayMore) this._step({ more: true });
  }

  /** Two images of the standings change places. */
  swap(one, other) {
    const { tournament, ids } = this.model;
    if (tournament?.phase !== "standings" || one === other) return;
    const place = (image) => tournament.standings.indexOf(ids.indexOf(image));
    const [down, up] = place(one) < place(other) ? [one, other] : [other, one];
    this._cast(swapVote(up, down));
  }

  label(image, wanted) {
    const fields = label(this.model.labels, image, wanted);
    if (fields) this._cast(fields);
  }

  // Steps taken back

  undo() {
    if (this.draft.past.length) {
      this.draft = back(this.draft);
      this._changed();
      return;
    }
    const last = this.model?.votes.at(-1);
    if (last) this.undoVote(last.id);
  }

  undoVote(id) {
    const struck = this.model.votes.find((one) => one.id === id);
    if (!struck) return;
    const restored = (struck.strikes ?? []).map((one) => this._seen.get(one)).filter(Boolean);
    const entry = { op: "undo", id: this.newId(), target: id, restored };
    this.undone.push({ id: entry.id, vote: struck });
    this._dropDraft();
    this._send(entry);
  }

  redo() {
    if (this.draft.future.length) {
      this.draft = forth(this.draft);
      this._changed();
      return;
    }
    const last = this.undone.pop();
    if (!last) return;
    this._dropDraft();
    this._send({ op: "undo", id: this.newId(), target: last.id, restored: [last.vote] });
  }

  // Saving

  retry() {
    this._cancelRetry?.();
    this.failure = null;
    this._changed();
    this._flush();
  }

  /** Gives up the choice the server refuses. */
  discard() {
    const [refused] = this.outbox;
    if (!refused || this._sending) return;
    this._drop(refused);
    this.retry();
    if (isSame(refused.reference, this.reference)) this.load();
  }

  /** Lets a run go on that waits for this node. */
  async finishWaiting() {
    if (!this.waiting) return;
    const { prompt_id, node } = this.waiting;
    const path = `/dpo/waiting/${encodeURIComponent(prompt_id)}/${encodeURIComponent(node)}/done`;
    const { status, body } = await this.port.post(path, {});
    if (status === 200 || status === 404) this.waiting = null;
    else this.failure = { message: told(body, this.words), final: false };
    this._changed();
  }

  setWaiting(waiting) {
    this.waiting = waiting;
    this._changed();
  }

  dispose() {
    this._cancelRetry?.();
  }

  _step(next) {
    this.draft = step(this.draft, next);
    this._changed();
  }

  _cast(fields) {
    this.undone = [];
    this._dropDraft();
    this._send({ op: "vote", vote: vote(this.newId, this.set.set_id, fields) });
  }

  _send(entry) {
    const sent = { ...entry, reference: this.reference };
    this.outbox = [...this.outbox, sent];
    this._keep(sent);
    this._changed();
    this._flush();
  }

  async _flush() {
    if (this._sending || this.failure?.final || !this.outbox.length) return;
    this._sending = true;
    this._cancelRetry?.();
    while (this.outbox.length) {
      const [entry] = this.outbox;
      const { path, body } = request(entry.reference.session, entry);
      const answer = await this.port.post(path + this._query(), body);
      if (answer.status !== 200) {
        this._fail(answer);
        break;
      }
      this._answers += 1;
      this._tries = 0;
      this.failure = null;
      this._drop(entry);
      if (isSame(entry.reference, this.reference)) this._take(answer.body);
      this._count(answer.body);
      this.port.valueChanged(this._valueOf(answer.body));
      if (this.outbox.length) this._changed();
    }
    this._sending = false;
    this._changed();
    // One that was cast while the last answer was handled.
    if (this.outbox.length && !this.failure) this._flush();
  }

  _fail({ status, body }) {
    const final = !mayRetry(status);
    this.failure = { message: told(body, this.words), final };
    if (final) return;
    this._tries += 1;
    this._cancelRetry = this.port.later(retryDelay(this._tries), () => this._flush());
  }

  _valueOf(set) {
    const { session, set_id, revision } = set;
    return { v: 1, session, set_id, mode: this.mode, revision };
  }

  _take(set) {
    this.set = set;
    for (const one of set.votes) this._seen.set(one.id, one);
  }

  // So that the list of sets is right without being asked for again.
  _count({ session, set_id, votes }) {
    if (session !== this.reference?.session) return;
    this.sets = this.sets.map((one) =>
      one.set_id === set_id ? { ...one, votes: votes.length } : one,
    );
  }

  _keep(entry) {
    if (entry.op === "vote") this._seen.set(entry.vote.id, entry.vote);
    this.port.kept.write(keptId(entry), JSON.stringify(entry));
  }

  _drop(entry) {
    this.outbox = this.outbox.filter((one) => one !== entry);
    this.port.kept.drop(keptId(entry));
  }

  // What a closed tab did not get rid of is sent again: the same id counts once.
  _takeKept() {
    const known = new Set(this.outbox.map(keptId));
    const kept = readKept(`[${this.port.kept.all().join(",")}]`).filter(
      (entry) => isSame(entry.reference, this.reference) && !known.has(keptId(entry)),
    );
    this.outbox = [...this.outbox, ...kept];
  }

  _forgetDraft() {
    this._dropDraft();
    this._changed();
  }

  // For those who tell of the change themselves: each telling draws the page.
  _dropDraft() {
    this.draft = begin(FIRST_DRAFT[this.mode]);
    this._model = null;
  }

  _changed() {
    this._model = null;
    this.onChange();
  }

  _setPath() {
    const { session, set_id } = this.reference;
    return `${folderOf(session)}/sets/${encodeURIComponent(set_id)}${this._query()}`;
  }

  _query() {
    return `?mode=${this.mode}&pairs_per_group=${this.pairsPerGroup}`;
  }
}

// Everything a refusal says; without one nobody was there.
function told(body, { noAnswer }) {
  return [body?.error ?? noAnswer, ...(body?.problems ?? [])].join(" ");
}

const folderOf = (session) => `/dpo/sessions/${encodeURIComponent(session)}`;
const keptId = (entry) => (entry.op === "vote" ? entry.vote.id : entry.id);

function isSame(one, other) {
  return one?.session === other?.session && one?.set_id === other?.set_id;
}

function modelOf({ set, mode, outbox, reference, draft, pairsPerGroup }) {
  const here = outbox.filter((entry) => isSame(entry.reference, reference));
  const ids = set.images.map((image) => image.id);
  const votes = votesNow(set.votes, here);
  const model = { ids, votes, sizes: new Map(set.images.map((image) => [image.id, image])) };
  if (mode === "best_worst") {
    model.selection = selection(ids, votes, draft.present, pairsPerGroup);
  } else if (mode === "rank") {
    model.order = draft.present.order ?? savedOrder(ids, votes);
  } else if (mode === "thumbs") {
    model.labels = labels(ids, votes);
  } else if (ids.length > 1) {
    Object.assign(model, playedSoFar(set, ids, votes, draft.present.more));
  }
  return model;
}

function playedSoFar(set, ids, votes, more) {
  const at = (image) => ids.indexOf(image);
  const events = votes.flatMap((one) => {
    if (one.kind === "swap") return [{ type: "swap", up: at(one.up), down: at(one.down) }];
    if (one.kind !== "comparison") return [];
    return [
      { type: "choose", left: at(one.left), right: at(one.right), result: one.result, id: one.id },
    ];
  });
  const state = resumed(ids.length, set.seed, events);
  const longer = reduce(state, { type: "more" });
  return { tournament: more ? longer : state, mayPlayMore: !more && longer !== state };
}
