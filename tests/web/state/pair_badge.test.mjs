import assert from "node:assert/strict";
import { test } from "node:test";

import { selection } from "../../../web/ranking/best_worst.mjs";
import { badges, bestWorstPairs, orderPairs } from "../../../web/ranking/pair_badge.mjs";

const sizes = (entries) =>
  new Map(Object.entries(entries).map(([id, [width, height]]) => [id, { width, height }]));
const alike = sizes({ a: [1, 1], b: [1, 1], c: [1, 1], d: [1, 1] });

test("what the pointer is on is shown as the worst of the pair to come", () => {
  const where = selection(["a", "b", "c"], [], { best: "a", goOn: false }, 1);
  assert.deepEqual(bestWorstPairs(where, "c"), [{ chosen: "a", rejected: "c" }]);
  assert.deepEqual(bestWorstPairs(where, null), [{ chosen: "a", rejected: null }]);
  assert.deepEqual(bestWorstPairs(where, "a"), [{ chosen: "a", rejected: null }]);
});

test("the outermost images of an order make the first pair, each image once", () => {
  assert.deepEqual(orderPairs([["a"], ["b"], ["c"], ["d"]], alike, 2), [
    { chosen: "a", rejected: "d" },
    { chosen: "b", rejected: "c" },
  ]);
  assert.equal(orderPairs([["a"], ["b"], ["c"], ["d"]], alike, 1).length, 1);
});

test("tied images make no pair", () => {
  assert.deepEqual(orderPairs([["a", "b"]], alike, 2), []);
});

test("images of two sizes make no pair", () => {
  const mixed = sizes({ a: [1, 1], b: [2, 1], c: [1, 1] });
  assert.deepEqual(orderPairs([["a"], ["c"], ["b"]], mixed, 2), [{ chosen: "a", rejected: "c" }]);
});

test("a badge tells each image's pair and side", () => {
  const found = badges([{ chosen: "a", rejected: "d" }, { chosen: "b", rejected: null }]);
  assert.deepEqual(found.get("d"), { number: 1, role: "rejected" });
  assert.deepEqual(found.get("b"), { number: 2, role: "chosen" });
  assert.equal(found.size, 3);
});
