import assert from "node:assert/strict";
import { test } from "node:test";

import { Review } from "../../../web/curation/review.mjs";

const SESSION = { kind: "sessions", id: "my taste" };
const pair = (id, more = {}) => ({
  pair: id, prompt: `prompt ${id}`, chosen: { id: `c${id}` }, rejected: { id: `r${id}` }, ...more,
});

/** A server with some pairs, and what was asked of it. */
function reviewOf(pairs, now = 1000) {
  const asked = [];
  const server = { pairs, edits: [], answer: null };
  const get = async (path) => {
    asked.push(path);
    const url = new URL(path, "http://x");
    if (url.pathname.endsWith("/statistics")) return { status: 200, body: { pairs: server.pairs.length, warnings: [] } };
    if (url.pathname.endsWith("/orphans")) return { status: 200, body: { missing_total: 0 } };
    if (url.pathname.endsWith("/edits")) return { status: 200, body: { edits: server.edits } };
    const [from, count] = [Number(url.searchParams.get("offset")), Number(url.searchParams.get("limit"))];
    const body = { total: server.pairs.length, all: server.pairs.length, pairs: server.pairs.slice(from, from + count) };
    return { status: 200, body };
  };
  const post = async (path, body) => {
    asked.push([path, body]);
    if (server.answer) return server.answer;
    if (body.kind === "remove") server.pairs = server.pairs.filter((one) => one.pair !== body.pair);
    server.edits = path.endsWith("/undo") ? [] : [{ id: body.id, kind: body.kind }];
    return { status: 200, body: { edits: server.edits } };
  };
  let ids = 0;
  const review = new Review({ get, post }, () => `id${(ids += 1)}`, () => {}, () => now);
  const query = () => new URL(asked.filter((one) => /pairs\?/.test(one)).at(-1), "http://x").searchParams;
  return { review, asked, server, query };
}

test("pairs come a page at a time, and a change leaves as many on display", async () => {
  const pairs = Array.from({ length: 60 }, (_, i) => pair(`p${i}`));
  const { review, asked, server, query } = reviewOf(pairs);
  await review.show(SESSION);
  assert.equal(review.pairs.length, 24);
  await review.more();
  assert.deepEqual([review.pairs.length, review.pairs[24].pair, review.total], [48, "p24", 60]);
  await review.remove(review.pairs[30]);
  const [path, sent] = asked.find((one) => one[1]?.kind === "remove");
  assert.equal(path, "/dpo/curation/sessions/my%20taste/pairs/edits");
  assert.deepEqual(sent, { id: "id1", kind: "remove", pair: "p30", chosen: "cp30", rejected: "rp30" });
  assert.equal(query().get("limit"), "48");
  assert.deepEqual([review.pairs.length, review.total, review.note], [48, 59, "Pair removed."]);
  await review.undo(review.edits[0]);
  const [back, undo] = asked.filter((one) => Array.isArray(one)).at(-1);
  assert.ok(back.endsWith("/undo"));
  assert.deepEqual(undo, { id: "id1", undo_id: "id2" });
  assert.equal(server.edits.length, 0);
});

test("filters are bounds in numbers and times", async () => {
  const { review, query } = reviewOf([pair("a")], 10 * 86400);
  await review.show(SESSION);
  assert.deepEqual([...query().keys()].sort(), ["limit", "offset", "order"]);
  await review.arrange({ agreement: "likely", gap: "far", time: "day", problem: "any", prompt: "hill" });
  const asked = Object.fromEntries(query());
  assert.deepEqual(
    [asked.agreement_min, asked.agreement_max, asked.gap_min, asked.gap_max, asked.since],
    ["0.6", "0.9", "2", undefined, String(9 * 86400 * 1000)],
  );
  assert.deepEqual([asked.problem, asked.prompt, asked.order], ["any", "hill", "newest"]);
  const bounds = async (filter, name) => {
    await review.arrange(filter);
    return [query().get(`${name}_min`), query().get(`${name}_max`)];
  };
  assert.deepEqual(await bounds({ agreement: "unsure" }, "agreement"), [null, "0.6"]);
  assert.deepEqual(await bounds({ agreement: "sure" }, "agreement"), ["0.9", null]);
  assert.deepEqual(await bounds({ gap: "close" }, "gap"), [null, "0.5"]);
  assert.deepEqual(await bounds({ gap: "clear" }, "gap"), ["0.5", "2"]);
  await review.arrange({ order: "unsure" });
  assert.equal(query().get("order"), "unsure");
  assert.ok(review.isFiltered);
  await review.clearFilter();
  assert.ok(!review.isFiltered && !query().has("gap_min"));
});

test("a refusal changes nothing and says why", async () => {
  const { review, server } = reviewOf([pair("a")]);
  await review.show(SESSION);
  server.answer = { status: 409, body: { error: "This pair has changed since. Look again." } };
  await review.flip(review.pairs[0]);
  assert.deepEqual(
    [review.problem, review.pairs.length, review.busy],
    ["This pair has changed since. Look again.", 1, false],
  );
});

test("another source begins anew, the same one keeps its filter", async () => {
  const { review } = reviewOf([pair("a")]);
  await review.show(SESSION);
  await review.arrange({ prompt: "hill" });
  await review.show({ ...SESSION });
  assert.equal(review.filter.prompt, "hill");
  await review.show({ kind: "scans", id: "ab" });
  assert.deepEqual([review.filter.prompt, review.isFolder], ["", true]);
});

test("what is still gone after mending is told", async () => {
  const { review, server } = reviewOf([pair("a")]);
  await review.show(SESSION);
  server.answer = { status: 200, body: { mended: ["x"], missing: ["y"], total: 1 } };
  await review.mend();
  assert.match(review.note, /^1 found again; 1 are still gone/);
});

/** Lets answers through one at a time; `go(n)` the n-th of those waiting. */
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

test("a button hit twice makes one change, and two changes come one after the other", async () => {
  const { review, asked } = reviewOf([pair("a"), pair("b")]);
  await review.show(SESSION);
  const [a, b] = review.pairs;
  const held = heldBack(review.port, "post", () => true);
  const all = [review.remove(a), review.remove(a), review.remove(b)];
  await settled();
  const posted = () => asked.filter((one) => Array.isArray(one)).map(([, { kind, pair: of }]) => `${kind} ${of}`);
  assert.deepEqual([posted(), review.busy], [["remove a"], true]);
  held.shift()();
  await settled();
  held.shift()();
  assert.deepEqual(await Promise.all(all), [true, false, true]);
  assert.deepEqual([posted(), review.total, review.problem, review.busy], [["remove a", "remove b"], 0, "", false]);
});

test("a change that is answered after the person went elsewhere shows nothing there", async () => {
  const { review, server } = reviewOf([pair("a")]);
  await review.show(SESSION);
  const held = heldBack(review.port, "post", () => true);
  const removing = review.remove(review.pairs[0]);
  await settled();
  const edits = server.edits;
  server.edits = [];
  await review.show({ kind: "scans", id: "ab" });
  held.shift()();
  await removing;
  assert.equal(edits.length, 1);
  assert.deepEqual([review.edits, review.note, review.isFolder], [[], "", true]);
});

test("statistics of an older look are not shown over newer ones", async () => {
  const { review, server } = reviewOf([pair("a"), pair("b")]);
  await review.show(SESSION);
  const held = heldBack(review.port, "get", (path) => path.endsWith("/statistics"));
  const first = review.readAgain();
  await settled();
  server.pairs = server.pairs.slice(1);
  const second = review.readAgain();
  await settled();
  held.reverse().forEach((go) => go());
  await Promise.all([first, second]);
  assert.equal(review.statistics.pairs, 1);
});

test("more pairs that are asked for in the middle of a change follow what is there then", async () => {
  const pairs = Array.from({ length: 60 }, (_, i) => pair(`p${String(i).padStart(2, "0")}`));
  const { review } = reviewOf(pairs);
  await review.show(SESSION);
  const held = heldBack(review.port, "get", (path) => /pairs\?/.test(path));
  const removing = review.remove(review.pairs[0]);
  await settled();
  const more = review.more();
  await settled();
  held.shift()();
  await settled();
  held.splice(0).forEach((go) => go());
  await Promise.all([removing, more]);
  const names = review.pairs.map((one) => one.pair);
  assert.deepEqual([names.length, names[0], new Set(names).size], [48, "p01", 48]);
});

test("pairs of a folder that is still being read are said to be so", async () => {
  const { review } = reviewOf([pair("a")]);
  const { get } = review.port;
  let state = "reading";
  review.port.get = async (path) => {
    const { status, body } = await get(path);
    return { status, body: { ...body, state } };
  };
  await review.show({ kind: "scans", id: "ab" });
  assert.ok(review.isReading);
  state = "done";
  await review.readAgain();
  assert.ok(!review.isReading);
});

test("pairs of a session are as many of each group as are asked for in ranking, in changes too", async () => {
  const { review, asked } = reviewOf([pair("a")]);
  await review.show({ ...SESSION, pairsPerGroup: 4 });
  await review.remove(review.pairs[0]);
  const paths = asked.map((one) => (Array.isArray(one) ? one[0] : one));
  assert.equal(paths.length, 9);
  for (const path of paths) assert.equal(new URL(path, "http://x").searchParams.get("pairs_per_group"), "4", path);
  await review.arrange({ prompt: "hill" });
  await review.show({ ...SESSION, pairsPerGroup: 1 });
  assert.equal(review.filter.prompt, "", "other pairs");
});
