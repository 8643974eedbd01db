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
