// The pairs of a session or of a pair folder under review: which are shown, what is odd, what was
// changed. Knows no page; the port is {get, post} of `httpPort`.

import { told } from "./desk.mjs";

export const ORDERS = {
  newest: "Newest first",
  oldest: "Oldest first",
  unsure: "Least sure first",
  gap: "Closest ratings first",
  prompt: "By prompt",
};
export const PROBLEMS = {
  any: "Anything odd",
  missing: "An image is gone",
  unreadable: "Cannot be read",
  sizes_differ: "Sizes differ",
  same_image: "Same image twice",
  prompts_differ: "Prompts differ",
  repeated: "There twice",
  two_splits: "In train and val",
};
export const AGREEMENTS = {
  "": "Any agreement",
  unsure: "Unsure: P below 60 %",
  likely: "Likely: 60 to 90 %",
  sure: "Sure: over 90 %",
};
export const GAPS = {
  "": "Any rating gap",
  close: "Close: below 0.5",
  clear: "Clear: 0.5 to 2",
  far: "Far: over 2",
};
export const TIMES = { "": "Any time", day: "Last day", week: "Last week", month: "Last month" };
const BOUNDS = {
  agreement: { unsure: [null, 0.6], likely: [0.6, 0.9], sure: [0.9, null] },
  gap: { close: [null, 0.5], clear: [0.5, 2], far: [2, null] },
};
const DAYS = { day: 1, week: 7, month: 30 };
const NO_FILTER = { prompt: "", problem: "", agreement: "", gap: "", time: "", split: "" };
const PAGE = 24;
/** States of a scan that goes on. */
export const READING = ["new", "listing", "reading"];

export class Review {
  /**
   * @param {() => string} newId
   * @param {() => void} onChange called after every change
   * @param {() => number} now Unix time in seconds
   */
  constructor(port, newId, onChange, now) {
    this.port = port;
    this.newId = newId;
    this.onChange = onChange;
    this.now = now;
    this._posts = Promise.resolve();
    this._pending = new Set();
    this._askedRest = 0;
    this._forget(null);
  }

  _forget(source) {
    this.source = source;
    this.filter = { ...NO_FILTER };
    this.order = "newest";
    this.pairs = [];
    this.total = this.all = 0;
    this.statistics = null;
    this.orphans = null;
    this.edits = [];
    this.problem = this.note = "";
    this.state = "done";
    this._asked = (this._asked ?? 0) + 1;
  }

  get isFolder() {
    return this.source?.kind === "scans";
  }

  /** A change is on its way. */
  get busy() {
    return this._pending.size > 0;
  }

  /** There may be more pairs than are known by now. */
  get isReading() {
    return READING.includes(this.state);
  }

  get isFiltered() {
    return Object.values(this.filter).some(Boolean);
  }

  /**
   * @param {{kind: "sessions"|"scans", id: string, pairsPerGroup?: number}} source whose pairs are
   *   shown; of a session as many of each group as are made for training
   */
  async show(source) {
    if (JSON.stringify(source) !== JSON.stringify(this.source)) this._forget(source);
    await Promise.all([this.read(), this._readRest()]);
  }

  async arrange({ order = this.order, ...filter }) {
    this.order = order;
    this.filter = { ...this.filter, ...filter };
    await this.read();
  }

  clearFilter() {
    return this.arrange({ ...NO_FILTER });
  }

  read() {
    return (this._reading = this._read(0, PAGE));
  }

  async more() {
    await this._reading; // or its answer would be missed
    return this._read(this.pairs.length, PAGE);
  }

  /** The folder was read further. */
  async readAgain() {
    if (this.source) await Promise.all([this._again(), this._readRest()]);
  }

  async _read(offset, limit) {
    const asked = (this._asked += 1);
    const { status, body } = await this.port.get(this._pathTo("", this._query(offset, limit)));
    if (asked !== this._asked) return;
    if (status === 200) {
      this.pairs = offset ? [...this.pairs, ...body.pairs] : body.pairs;
      [this.total, this.all, this.problem] = [body.total, body.all, ""];
      this.state = body.state ?? "done";
    } else if (status === 404 && !this.isFolder) {
      [this.pairs, this.total, this.all] = [[], 0, 0]; // nothing was chosen in this session yet
    } else this.problem = told(body);
    this.onChange();
  }

  _query(offset, limit) {
    const { prompt, problem, agreement, gap, time, split } = this.filter;
    const query = { prompt, problem, split, order: this.order, offset, limit };
    const between = (name, [low, high] = [null, null]) => {
      if (low !== null) query[`${name}_min`] = low;
      if (high !== null) query[`${name}_max`] = high;
    };
    between("agreement", BOUNDS.agreement[agreement]);
    between("gap", BOUNDS.gap[gap]);
    if (DAYS[time]) query.since = Math.round(1000 * (this.now() - 86400 * DAYS[time]));
    for (const name of ["prompt", "problem", "split"]) if (!query[name]) delete query[name];
    return query;
  }

  async _readRest() {
    const asked = (this._askedRest += 1);
    const [statistics, orphans, edits] = await Promise.all(
      ["/statistics", "/orphans", "/edits"].map((end) => this.port.get(this._pathTo(end))),
    );
    if (asked !== this._askedRest) return;
    if (statistics.status === 200) this.statistics = statistics.body;
    if (orphans.status === 200) this.orphans = orphans.body;
    if (edits.status === 200) this.edits = edits.body.edits;
    this.onChange();
  }

  // Changes, each of which can be taken back; each tells whether it was made

  remove(pair) {
    return this._change("remove", seen(pair), "Pair removed.");
  }

  flip(pair) {
    return this._change("flip", seen(pair), "Pair turned round.");
  }

  setPrompt(pair, prompt) {
    return this._change("prompt", { ...seen(pair), prompt }, "Prompt changed.");
  }

  /** Puts an image without a partner aside. */
  drop(image) {
    return this._change("drop", { image }, "Image put aside.");
  }

  /** Two images without partners become a pair. */
  join(chosen, rejected) {
    return this._change("mend", { chosen, rejected }, "The two are a pair now.");
  }

  /** Images of the session that are gone are stored anew from where they came from. */
  async mend() {
    const body = await this._post("edits", { id: this.newId() }, { kind: "mend" });
    if (!body) return;
    const [found, left] = [body.mended.length, body.total];
    this.note = left
      ? `${found} found again; ${left} are still gone: their files are no longer where they came from.`
      : `${found} found again.`;
    await Promise.all([this._again(), this._readRest()]);
  }

  async undo(edit) {
    const body = await this._post("undo", { undo_id: this.newId() }, { id: edit.id });
    if (body) await this._settle(body, "Taken back.");
  }

  async _change(kind, fields, note) {
    const body = await this._post("edits", { id: this.newId() }, { kind, ...fields });
    if (body) await this._settle(body, note);
    return Boolean(body);
  }

  async _settle({ edits }, note) {
    [this.edits, this.note] = [edits, note];
    await Promise.all([this._again(), this._readRest()]);
  }

  /** As many as are shown, in their places. */
  _again() {
    const count = Math.min(500, Math.max(PAGE, this.pairs.length));
    return (this._reading = this._read(0, count));
  }

  /** One change after the other; none twice, if a button is hit again before it is gone. */
  async _post(end, ids, what) {
    const { source } = this;
    const path = this._pathTo(`/${end}`);
    const key = `${path} ${JSON.stringify(what)}`;
    if (this._pending.has(key)) return null;
    this._pending.add(key);
    this.problem = this.note = "";
    this.onChange();
    const sent = this._posts.then(() => this.port.post(path, { ...ids, ...what }));
    this._posts = sent;
    const { status, body } = await sent;
    this._pending.delete(key);
    if (source !== this.source) return null;
    if (status === 200) return body;
    this.problem = told(body);
    this.onChange();
    return null;
  }

  _pathTo(end, fields = {}) {
    const { kind, id, pairsPerGroup = 1 } = this.source;
    const rules = pairsPerGroup > 1 ? { pairs_per_group: pairsPerGroup } : {};
    const query = new URLSearchParams({ ...fields, ...rules }).toString();
    const path = `/dpo/curation/${kind}/${encodeURIComponent(id)}/pairs${end}`;
    return query ? `${path}?${query}` : path;
  }
}

/** What was seen of a pair when it was changed: if it is another by now, it is left alone. */
function seen({ pair, chosen, rejected }) {
  return { pair, chosen: chosen.id, rejected: rejected.id };
}
