// A folder's groups on their way to a session: what is open, what is left, what was set aside.
// Knows no page; the port is that of a `Board`, with
//
//   show(reference)      puts a set on display, null takes it off
//   isDone()             all that was asked for of the set on display is chosen
//   memory.read(), .write(settings)   what outlives the page

import { counted } from "./words.mjs";

export const ORDERS = {
  shuffled: "Shuffled",
  hardest: "Hardest first",
  largest: "Largest first",
  newest: "Newest first",
};
export const STATES = {
  todo: "To rank",
  begun: "Begun",
  done: "Ranked",
  skipped: "Skipped",
  single: "Alone",
};
const SETTINGS = {
  folder: "",
  session: "default",
  mode: "best_worst",
  pairsPerGroup: 1,
  order: "shuffled",
  seed: 0,
  search: "",
  goOn: true,
};
const QUEUE = 12;
/** Seconds between looks at a scan that runs, and until the next group after one is done. */
const LOOK = 1.2;
/** As long as there is nothing to rank yet. */
const FIRST_LOOK = 0.2;
const TURN = 0.6;
/** Ends what the person no longer waits for. */
const OVERTAKEN = Symbol("overtaken");

export class Desk {
  /**
   * @param {object} port see above
   * @param {() => string} newId
   * @param {() => void} onChange called after every change
   */
  constructor(port, newId, onChange) {
    this.port = port;
    this.newId = newId;
    this.onChange = onChange;
    this.settings = { ...SETTINGS, ...known(port.memory.read()) };
    this.scans = [];
    this.sessions = [];
    this.scan = null;
    this.counts = null;
    this.queue = [];
    this.group = null;
    this.part = 0;
    this.visited = [];
    this.aside = null;
    this.problem = "";
    this.note = "";
    this._asked = this._askedGroup = 0;
    this._working = 0;
    this._turn = 0;
    this._unread = null;
  }

  get busy() {
    return this._working > 0;
  }

  get isScanning() {
    return ["new", "listing", "reading"].includes(this.scan?.state);
  }

  /** Groups that can be ranked, and how many of them are. */
  get progress() {
    const { todo = 0, begun = 0, done = 0, skipped = 0 } = this.counts ?? {};
    return { done, all: todo + begun + done + skipped, left: todo + begun };
  }

  /** Reads which folders and sessions there are. */
  async enter() {
    const [scans, sessions] = await Promise.all([
      this.port.get("/dpo/curation/scans"),
      this.port.get("/dpo/sessions"),
    ]);
    if (scans.status === 200) this.scans = scans.body.scans;
    else this.problem = told(scans.body);
    if (sessions.status === 200) this.sessions = sessions.body.sessions;
    this.onChange();
  }

  set(changes) {
    this.settings = { ...this.settings, ...changes };
    this.port.memory.write(this.settings);
    this.onChange();
  }

  /** Another order or search: what comes next is asked for anew. */
  async arrange(changes) {
    this.set(changes);
    await this.refresh();
  }

  // The folder

  /** @param {{folder?: string, scan?: string}} which a folder as typed, or one scanned before */
  async look(which) {
    const looked = await this._doing(async () => {
      const { status, body } = await this._current(this.port.post("/dpo/curation/scans", which));
      if (status !== 200) {
        this.problem = told(body);
        return;
      }
      this._forget();
      this.scan = body;
      this.set({ folder: body.folder });
      await this._current(this.refresh());
      this._follow();
    });
    if (looked && this.scan && !this.group) await this.next("begun");
  }

  async stop() {
    const { scan } = this.scan;
    await this._at(async () => {
      const { status, body } = await this.port.post(`${this._path}/stop`, {});
      if (this.scan?.scan !== scan) return;
      if (status === 200) this.scan = body;
      else this.problem = told(body);
    });
  }

  /** Back to the choice of a folder; what was saved is saved. */
  leave() {
    this._turn += 1;
    this._forget();
    this.port.show(null);
    this.onChange();
    return this.enter();
  }

  _forget() {
    this._cancel?.();
    this._cancelTurn?.();
    this._asked += 1;
    this._askedGroup += 1;
    this.scan = this.counts = this.group = this.aside = null;
    this.queue = [];
    this.visited = [];
    this.problem = this.note = "";
  }

  _follow() {
    this._cancel?.();
    if (!this.isScanning) return;
    this._cancel = this.port.later(this.group ? LOOK : FIRST_LOOK, async () => {
      await this.refresh();
      if (!this.group && !this.busy && this.queue.length) await this.next();
      this._follow();
    });
  }

  /**
   * What is next, and how far the folder and the session are.
   * @returns the groups that are next, null if that could not be read
   */
  async refresh(state = "todo") {
    if (!this.scan) return null;
    const asked = (this._asked += 1);
    const { status, body } = await this.port.get(this._groups(state, QUEUE, 0));
    const groups = status === 200 ? body.groups : null;
    if (asked !== this._asked) return groups;
    if (!groups) {
      this._unread = this.problem = told(body);
    } else {
      if (this.problem === this._unread) this.problem = "";
      this._unread = null;
      this.scan = body.scan;
      this.counts = body.counts;
      this.queue = groups;
      if (this.scan.state === "new") this._readOn(this.scan.scan);
    }
    this.onChange();
    return groups;
  }

  /** ComfyUI was started anew meanwhile: nobody reads the folder any more. */
  async _readOn(scan) {
    const { status, body } = await this.port.post("/dpo/curation/scans", { scan });
    if (this.scan?.scan !== scan) return;
    if (status === 200) this.scan = body;
    else this.problem = told(body);
    this._follow();
    this.onChange();
  }

  /** A page of all groups in one state; for a list of them. */
  async page(state, offset, limit) {
    const { status, body } = await this.port.get(this._groups(state, limit, offset));
    if (status !== 200) return { groups: [], total: 0, problem: told(body) };
    return { groups: body.groups, total: body.total, problem: "" };
  }

  _groups(state, limit, offset) {
    const { session, order, seed, search } = this.settings;
    const query = new URLSearchParams({ session, state, order, seed, search, limit, offset });
    return `${this._path}/groups?${query}`;
  }

  // One group after the other

  /** Opens what comes next: of what is begun, if asked for and there is any. */
  async next(first = "todo") {
    const last = this.group?.group;
    await this._doing(async () => {
      for (const state of first === "begun" ? ["begun", "todo"] : ["todo", "begun"]) {
        const queue = await this._current(this.refresh(state));
        if (!queue) return;
        const found = queue.find((one) => one.group !== last && one.prompt !== null);
        const unnamed = queue.find((one) => one.group !== last);
        if (found ?? unnamed) {
          await this._open((found ?? unnamed).group);
          return;
        }
      }
      this.group = null;
      this.port.show(null);
    });
  }

  open(group, part) {
    return this._doing(() => this._open(group, part));
  }

  /** The group before this one, as it is now. */
  async back() {
    const before = this.visited.at(-1);
    if (!before) return;
    this.visited = this.visited.slice(0, -1);
    await this._doing(() => this._open(before.group, before.part, false));
  }

  async _open(group, part, remember = true) {
    const before = this.group && { group: this.group.group, part: this.part };
    const path = this._pathOf(group);
    const summary = await this._current(
      this.port.get(`${path}?${new URLSearchParams(this._session)}`),
    );
    if (summary.status !== 200) {
      this.problem = told(summary.body);
      return;
    }
    if (remember && before && before.group !== group) this.visited = [...this.visited, before];
    this._askedGroup += 1;
    this.group = summary.body;
    this.note = "";
    const { set_aside: id, finished_early: early } = summary.body;
    if (id) this.aside = { id, kind: early ? "finish" : "skip", group, part: 0 };
    if (summary.body.prompt === null) {
      this.port.show(null); // it wants a prompt first
      return;
    }
    const { mode, pairsPerGroup } = this.settings;
    const query = new URLSearchParams({ mode, pairs_per_group: pairsPerGroup });
    // Of what is all ranked the first part, to look at it.
    const at = part ?? (summary.body.next_part === null ? 0 : undefined);
    const body = at === undefined ? this._session : { ...this._session, part: at };
    const opened = await this._current(this.port.post(`${path}/open?${query}`, body));
    if (opened.status !== 200) {
      this.problem = told(opened.body);
      this.port.show(null);
      return;
    }
    const { session, set_id, curation } = opened.body;
    this.part = curation.part;
    this.note = leftOut(curation.left_out);
    this.port.show({ session, set_id });
  }

  /** A choice on the set on display was saved. */
  async saved() {
    const { group, part } = this;
    if (!group) return;
    this.aside = null; // the person has gone on
    const wasDone = group.parts[part]?.state === "done";
    await this._readGroup();
    if (wasDone || !this.settings.goOn || this.group?.group !== group.group) return;
    if (!this.port.isDone()) return;
    // The person sees what was chosen, and can take it back, before it goes.
    this._cancelTurn?.();
    this._cancelTurn = this.port.later(TURN, () => {
      if (this.busy || this.group?.group !== group.group || this.part !== part) return;
      if (!this.port.isDone()) return;
      if (this.group.next_part === null) this.next();
      else this.open(this.group.group);
    });
  }

  async _readGroup() {
    const { group } = this.group;
    const asked = (this._askedGroup += 1);
    const query = new URLSearchParams(this._session);
    const { status, body } = await this.port.get(`${this._pathOf(group)}?${query}`);
    if (status !== 200 || asked !== this._askedGroup) return;
    if (this.counts && body.state !== this.group.state) {
      this.counts = { ...this.counts };
      this.counts[this.group.state] -= 1;
      this.counts[body.state] += 1;
    }
    this.group = body;
    this.onChange();
  }

  // Set aside

  skip() {
    return this._setAside("skip");
  }

  /** It is enough: the group counts as ranked. */
  finish() {
    return this._setAside("finish");
  }

  async _setAside(kind) {
    const { group } = this;
    if (!group) return;
    if (group.state === "done") {
      await this.next(); // it was ranked a moment ago
      return;
    }
    const id = this.newId();
    let done = false;
    await this._doing(async () => {
      const path = `${this._pathOf(group.group)}/${kind}`;
      const { status, body } = await this._current(
        this.port.post(path, { ...this._session, id }),
      );
      done = status === 200;
      if (!done) this.problem = told(body);
      else this.aside = { id, kind, group: group.group, part: this.part };
    });
    if (done) await this.next();
  }

  /** Takes the last skip, finish or prompt back, and shows the group again. */
  async takeBack() {
    const { aside } = this;
    if (!aside) return;
    await this._doing(async () => {
      const undo = { id: aside.id, undo_id: this.newId() };
      const { status, body } = await this._current(this.port.post(`${this._path}/undo`, undo));
      if (status !== 200) {
        this.problem = told(body);
        return;
      }
      this.aside = null;
      await this._current(this.refresh());
      await this._open(aside.group, undefined, false);
    });
  }

  /** Says what the open group's images were made with. */
  async givePrompt(prompt) {
    const { group } = this;
    if (!group) return;
    const id = this.newId();
    await this._doing(async () => {
      const path = `${this._pathOf(group.group)}/prompt`;
      const { status, body } = await this._current(
        this.port.post(path, { ...this._session, id, prompt }),
      );
      if (status !== 200) {
        this.problem = told(body);
        return;
      }
      this.aside = { id, kind: "prompt", group: group.group, part: 0 };
      this.counts = body.counts;
      if (body.group) await this._open(body.group.group, undefined, false);
    });
  }

  /** Work that decides what is on display: earlier work that is still under way ends. */
  _doing(work) {
    this._turn += 1;
    this._cancelTurn?.();
    return this._at(work);
  }

  /** @returns whether the work went on to its end */
  async _at(work) {
    this._working += 1;
    this.problem = "";
    this.onChange();
    try {
      await work();
      return true;
    } catch (error) {
      if (error !== OVERTAKEN) throw error;
      return false;
    } finally {
      this._working -= 1;
      this.onChange();
    }
  }

  /** What a promise brings, if the person has not gone elsewhere meanwhile. */
  async _current(promise) {
    const turn = this._turn;
    const found = await promise;
    if (turn !== this._turn) throw OVERTAKEN;
    return found;
  }

  get _session() {
    return { session: this.settings.session };
  }

  get _path() {
    return `/dpo/curation/scans/${encodeURIComponent(this.scan.scan)}`;
  }

  _pathOf(group) {
    return `${this._path}/groups/${encodeURIComponent(group)}`;
  }
}

/** What the server says of a refusal; without an answer nobody was there. */
export function told(body) {
  return [body?.error ?? "ComfyUI does not answer.", ...(body?.problems ?? [])].join(" ");
}

function leftOut(problems = []) {
  if (!problems.length) return "";
  return `${counted(problems.length, "image")} left out: ${problems.slice(0, 3).join(" ")}`;
}

/** Settings as they were kept: of those there are, and of their kind. */
function known(kept) {
  const found = {};
  for (const [name, usual] of Object.entries(SETTINGS)) {
    if (typeof kept?.[name] === typeof usual) found[name] = kept[name];
  }
  if (!(found.order in ORDERS)) delete found.order;
  if (!(found.pairsPerGroup >= 1 && found.pairsPerGroup <= 32)) delete found.pairsPerGroup;
  return found;
}
