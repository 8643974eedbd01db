import assert from "node:assert/strict";
import { test } from "node:test";

import { Desk } from "../../../web/curation/desk.mjs";

const SCAN = "a".repeat(32);

/** Groups of a folder as the server has them, and what was asked of it. */
class Server {
  constructor(...names) {
    this.state = new Map(names.map((name) => [name, "todo"]));
    this.parts = new Map();
    this.unnamed = new Set();
    this.asked = [];
    this.scanState = "done";
  }

  get = async (path) => {
    this.asked.push(path);
    const url = new URL(path, "http://x");
    if (url.pathname.endsWith("/groups")) return this._page(url.searchParams);
    if (url.pathname.includes("/groups/")) return this._group(url.pathname.split("/").at(-1));
    return { status: 200, body: { scans: [], sessions: [] } };
  };

  post = async (path, body) => {
    this.asked.push([path, body]);
    const parts = new URL(path, "http://x").pathname.split("/");
    const [name, act] = parts.slice(-2);
    if (act === "scans") return { status: 200, body: this._scan() };
    if (act === "open") return this._open(name, body);
    if (act === "skip") this.state.set(name, "skipped");
    if (act === "finish") this.state.set(name, "done");
    if (act === "undo") for (const [one, state] of this.state) if (state === "skipped") this.state.set(one, "todo");
    return { status: 200, body: { group: this._summary(name), counts: this._counts() } };
  };

  _scan = () => ({ scan: SCAN, folder: "/pictures", state: this.scanState, listed: 9, read: 9 });

  _counts() {
    const found = { todo: 0, begun: 0, done: 0, skipped: 0, single: 0 };
    for (const state of this.state.values()) found[state] += 1;
    return found;
  }

  _summary(name) {
    const parts = this.parts.get(name) ?? [{ state: this.state.get(name) }];
    const next = parts.findIndex((one) => one.state !== "done");
    return {
      group: name, state: this.state.get(name), prompt: this.unnamed.has(name) ? null : name,
      parts, next_part: next < 0 ? null : next, samples: [], count: 4, width: 8, height: 8, copies: 0,
    };
  }

  _page(query) {
    const names = [...this.state.keys()].filter((name) => this.state.get(name) === query.get("state"));
    const body = { scan: this._scan(), counts: this._counts(), groups: names.map((name) => this._summary(name)), total: names.length };
    return { status: 200, body };
  }

  _group(name) {
    if (!this.state.has(name)) return { status: 404, body: { error: "There is no such group." } };
    return { status: 200, body: this._summary(name) };
  }

  _open(name, { session, part }) {
    const { next_part: next } = this._summary(name);
    if (part === undefined && next === null) return { status: 409, body: { error: "All ranked." } };
    const at = part ?? next;
    return {
      status: 200,
      body: { session, set_id: `${name}${at}`, curation: { part: at, parts: 1, left_out: [] } },
    };
  }
}

function deskOf(server, kept = {}) {
  const shown = [];
  const timers = [];
  const port = {
    get: server.get,
    post: server.post,
    later: (seconds, call) => {
      const timer = { seconds, call };
      timers.push(timer);
      return () => timers.splice(timers.indexOf(timer), timers.includes(timer) ? 1 : 0);
    },
    memory: { read: () => kept, write: (settings) => (kept = settings) },
    show: (reference) => shown.push(reference?.set_id ?? null),
    isDone: () => port.done,
    done: false,
  };
  let ids = 0;
  const desk = new Desk(port, () => `id${(ids += 1)}`, () => {});
  return { desk, shown, timers, port, kept: () => kept };
}

test("a folder opens with its first group, one that was begun before others", async () => {
  const server = new Server("a", "b", "c");
  server.state.set("c", "begun");
  const { desk, shown, kept } = deskOf(server);
  await desk.look({ folder: "output" });
  assert.deepEqual(shown, ["c0"]);
  assert.deepEqual(desk.progress, { done: 0, all: 3, left: 3 });
  assert.equal(kept().folder, "/pictures");
});

test("what is done goes on by itself, unless it was done before or the person does not want it", async () => {
  const server = new Server("a", "b");
  const { desk, shown, timers, port } = deskOf(server);
  await desk.look({ folder: "output" });
  await desk.saved();
  assert.equal(timers.length, 0, "one vote of several");
  server.state.set("a", "done");
  port.done = true;
  await desk.saved();
  assert.equal(desk.counts.done, 1);
  assert.equal(timers.length, 1);
  await timers[0].call();
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(shown, ["a0", "b0"]);

  await desk.back();
  assert.equal(shown.at(-1), "a0", "to be looked at again");
  timers.length = 0;
  await desk.saved();
  assert.equal(timers.length, 0, "a change of what was done stays");
  await desk.next();
  desk.set({ goOn: false });
  server.state.set("b", "done");
  await desk.saved();
  assert.equal(timers.length, 0);
});

test("a group of several parts is gone through before the next", async () => {
  const server = new Server("a", "b");
  server.parts.set("a", [{ state: "todo" }, { state: "todo" }]);
  const { desk, shown, timers, port } = deskOf(server);
  await desk.look({ folder: "output" });
  server.parts.set("a", [{ state: "done" }, { state: "todo" }]);
  port.done = true;
  await desk.saved();
  await timers[0].call();
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(shown, ["a0", "a1"]);
});

test("skip brings the next, and is taken back with its group", async () => {
  const server = new Server("a", "b");
  const { desk, shown } = deskOf(server);
  await desk.look({ folder: "output" });
  await desk.skip();
  assert.deepEqual(shown, ["a0", "b0"]);
  assert.deepEqual([desk.counts.skipped, desk.aside.kind], [1, "skip"]);
  const [, sent] = server.asked.find((one) => one[0]?.endsWith?.("/a/skip"));
  assert.deepEqual(sent, { session: "default", id: "id1" });
  await desk.takeBack();
  assert.equal(shown.at(-1), "a0");
  assert.deepEqual([desk.counts.skipped, desk.aside], [0, null]);
  await desk.finish();
  await desk.finish();
  assert.equal(desk.group, null);
  assert.equal(shown.at(-1), null);
  assert.deepEqual(desk.progress, { done: 2, all: 2, left: 0 });
});

test("of a group that is all ranked the first part is shown, and asked for by its number", async () => {
  const server = new Server("a", "b");
  const { desk, shown } = deskOf(server);
  await desk.look({ folder: "output" });
  server.parts.set("b", [{ state: "done" }, { state: "done" }]);
  await desk.open("b");
  assert.equal(shown.at(-1), "b0");
  const opened = server.asked.filter((one) => one[0]?.includes?.("/b/open"));
  assert.deepEqual(opened.map(([, body]) => body), [{ session: "default", part: 0 }]);
});

test("what is ranked already is not skipped by a late key", async () => {
  const server = new Server("a", "b");
  const { desk, shown } = deskOf(server);
  await desk.look({ folder: "output" });
  server.state.set("a", "done");
  await desk.saved();
  await desk.skip();
  assert.deepEqual([server.state.get("a"), desk.aside, shown.at(-1)], ["done", null, "b0"]);
});

test("images without a known prompt come last and want one first", async () => {
  const server = new Server("a", "b");
  server.unnamed.add("a");
  const { desk, shown } = deskOf(server);
  await desk.look({ folder: "output" });
  assert.deepEqual(shown, ["b0"]);
  await desk.skip();
  assert.equal(desk.group.group, "a");
  assert.equal(shown.at(-1), null);
  server.unnamed.delete("a");
  await desk.givePrompt("hills");
  assert.equal(shown.at(-1), "a0");
  const [, sent] = server.asked.find((one) => one[0]?.endsWith?.("/a/prompt"));
  assert.equal(sent.prompt, "hills");
});

test("a scan that runs is asked until it ends, and its first group opens by itself", async () => {
  const server = new Server();
  server.scanState = "reading";
  const { desk, shown, timers } = deskOf(server);
  await desk.look({ folder: "output" });
  assert.equal(desk.group, null);
  server.state.set("a", "todo");
  server.scanState = "done";
  await timers.shift().call();
  assert.deepEqual(shown.filter(Boolean), ["a0"]);
  assert.equal(timers.length, 0, "nothing more to ask");
});

test("refusals are told, and what was kept is checked", async () => {
  const server = new Server("a");
  const { desk } = deskOf(server, { order: "<b>", pairsPerGroup: 1e9, session: 7, goOn: false });
  assert.deepEqual(
    [desk.settings.order, desk.settings.pairsPerGroup, desk.settings.session, desk.settings.goOn],
    ["shuffled", 1, "default", false],
  );
  await desk.look({ folder: "output" });
  server.post = async () => ({ status: 507, body: { error: "Disk full.", problems: ["Make room."] } });
  desk.port.post = server.post;
  await desk.skip();
  assert.equal(desk.problem, "Disk full. Make room.");
  assert.equal(desk.group.group, "a");
  desk.port.post = async () => ({ status: 0, body: null });
  await desk.skip();
  assert.equal(desk.problem, "ComfyUI does not answer.");
});

/** Holds answers back until they are let go, in any order. */
function heldBack(port, name, matches) {
  const held = [];
  const ask = port[name];
  port[name] = async (...asked) => {
    const answer = await ask(...asked);
    if (matches(asked[0])) await new Promise((resolve) => held.push(resolve));
    return answer;
  };
  return held;
}
const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

test("whoever leaves while a group comes is shown nothing of it", async () => {
  const { desk, shown, port } = deskOf(new Server("a", "b"));
  const usual = { get: port.get, post: port.post };
  for (const act of [() => desk.next(), () => desk.skip(), () => desk.open("b"), () => desk.takeBack()]) {
    await desk.look({ scan: SCAN });
    desk.aside = { id: "x", kind: "skip", group: "b", part: 0 };
    const [got, posted] = ["get", "post"].map((name) => heldBack(port, name, (path) => path.includes("scans/")));
    const opening = act();
    await settled();
    desk.leave();
    for (let n = 0; n < 5; n += 1) {
      for (const go of [...got.splice(0), ...posted.splice(0)]) go();
      await settled();
    }
    await opening;
    assert.deepEqual([shown.at(-1), desk.scan, desk.group, desk.aside, desk.busy], [null, null, null, null, false], String(act));
    Object.assign(port, usual);
  }
});

test("of two groups asked for, the later is shown, whichever comes first", async () => {
  const { desk, shown, port } = deskOf(new Server("a", "b", "c"));
  await desk.look({ folder: "output" });
  const held = heldBack(port, "post", (path) => path.includes("/open"));
  const [first, second] = [desk.open("b"), desk.open("c")];
  await settled();
  held.reverse().forEach((go) => go());
  await Promise.all([first, second]);
  assert.deepEqual([shown, desk.group.group], [["a0", "c0"], "c"]);
});

test("of two folders asked for, the later is looked through", async () => {
  const server = new Server("a");
  const { desk, port } = deskOf(server);
  const ask = port.post;
  port.post = async (path, body) => {
    const answer = await ask(path, body);
    return body.folder ? { status: 200, body: { ...answer.body, folder: body.folder } } : answer;
  };
  const held = heldBack(port, "post", (path) => path.endsWith("/scans"));
  const looks = [desk.look({ folder: "one" }), desk.look({ folder: "two" })];
  await settled();
  held.reverse().forEach((go) => go());
  await Promise.all(looks);
  assert.equal(desk.settings.folder, "two");
});

test("after ComfyUI was started anew the folder is read on", async () => {
  const server = new Server("a");
  const { desk, timers } = deskOf(server);
  await desk.look({ folder: "output" });
  server.scanState = "new";
  server.asked.length = 0;
  await desk.refresh();
  await settled();
  assert.deepEqual(server.asked.filter((one) => Array.isArray(one)), [["/dpo/curation/scans", { scan: SCAN }]]);
  assert.ok(timers.length, "and followed");
});

test("that ComfyUI does not answer is said until it does", async () => {
  const { desk, port } = deskOf(new Server("a"));
  await desk.look({ folder: "output" });
  const { get } = port;
  port.get = async () => ({ status: 0, body: null });
  await desk.next();
  assert.deepEqual([desk.problem, desk.group?.group], ["ComfyUI does not answer.", "a"], "what was open stays");
  port.get = get;
  await desk.refresh();
  assert.equal(desk.problem, "");
});

test("a group that was skipped long ago can be taken back when it is opened", async () => {
  const server = new Server("a", "b");
  const { desk } = deskOf(server);
  const summary = server._summary.bind(server);
  server._summary = (name) => ({ ...summary(name), set_aside: server.state.get(name) === "skipped" ? "s1" : null });
  server.state.set("b", "skipped");
  await desk.look({ folder: "output" });
  assert.equal(desk.aside, null);
  await desk.open("b");
  assert.deepEqual(desk.aside, { id: "s1", kind: "skip", group: "b", part: 0 });
  await desk.takeBack();
  assert.deepEqual([server.state.get("b"), desk.aside, desk.group.group], ["todo", null, "b"]);
  await desk.skip();
  await desk.saved();
  assert.equal(desk.aside, null, "the person has gone on");
});

test("an older look at a group is not shown over a newer one", async () => {
  const server = new Server("a");
  const { desk, port } = deskOf(server);
  await desk.look({ folder: "output" });
  const held = heldBack(port, "get", (path) => path.includes("/groups/"));
  const first = desk.saved();
  await settled();
  server.state.set("a", "done");
  const second = desk.saved();
  await settled();
  held.reverse().forEach((go) => go());
  await Promise.all([first, second]);
  assert.equal(desk.group.state, "done");
});
