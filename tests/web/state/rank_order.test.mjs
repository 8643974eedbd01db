import assert from "node:assert/strict";
import { test } from "node:test";

import {
  moved,
  orderVote,
  placedAfter,
  placedBefore,
  places,
  savedOrder,
  tiedWith,
  tieToggled,
  without,
} from "../../../web/ranking/rank_order.mjs";

const order = [["a"], ["b", "c"], ["d"]];

test("tied images share a place and leave the next one free", () => {
  assert.deepEqual([...places(order)], [["a", 1], ["b", 2], ["c", 2], ["d", 4]]);
});

test("an image is dropped before, behind, on or after all others", () => {
  assert.deepEqual(placedBefore(order, "e", "c"), [["a"], ["e"], ["b", "c"], ["d"]]);
  assert.deepEqual(placedBefore(order, "d", "a"), [["d"], ["a"], ["b", "c"]]);
  assert.deepEqual(placedBefore(order, "a", null), [["b", "c"], ["d"], ["a"]]);
  assert.deepEqual(placedAfter(order, "c", "d"), [["a"], ["b"], ["d"], ["c"]]);
  assert.deepEqual(tiedWith(order, "a", "d"), [["b", "c"], ["d", "a"]]);
});

test("dropped on itself an image stays", () => {
  assert.deepEqual(placedBefore(order, "a", "a"), order);
  assert.deepEqual(placedAfter(order, "a", "a"), order);
  assert.deepEqual(tiedWith(order, "a", "a"), order);
});

test("a key moves an image one place, out of a tie first, and not over the ends", () => {
  assert.deepEqual(moved(order, "d", -1), [["a"], ["d"], ["b", "c"]]);
  assert.deepEqual(moved(order, "c", -1), [["a"], ["c"], ["b"], ["d"]]);
  assert.deepEqual(moved(order, "b", 1), [["a"], ["c"], ["b"], ["d"]]);
  assert.deepEqual(moved(order, "a", -1), order);
  assert.deepEqual(moved(order, "x", 1), order);
});

test("T ties an image with the one above, and parts them again", () => {
  const tied = tieToggled([["a"], ["b"]], "b");
  assert.deepEqual(tied, [["a", "b"]]);
  assert.deepEqual(tieToggled(tied, "b"), [["a"], ["b"]]);
  assert.deepEqual(tieToggled([["a"], ["b"]], "a"), [["a"], ["b"]]);
});

test("no empty group stays behind", () => {
  assert.deepEqual(without([["a"], ["b"]], "a"), [["b"]]);
});

test("the last saved ranking is the order, and a new one takes its place", () => {
  const votes = [
    { id: "1", kind: "ranking", order: [["b"], ["a"]] },
    { id: "2", kind: "thumbs", labels: {} },
  ];
  assert.deepEqual(savedOrder(["a", "b", "c"], votes), [["b"], ["a"]]);
  assert.deepEqual(savedOrder(["a"], votes), [["a"]]);
  assert.deepEqual(orderVote([["a"], ["b"]], votes), {
    kind: "ranking",
    order: [["a"], ["b"]],
    strikes: ["1"],
  });
  assert.ok(!("strikes" in orderVote([["a"], ["b"]], [])));
});
