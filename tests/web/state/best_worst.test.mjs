import assert from "node:assert/strict";
import { test } from "node:test";

import { NOTHING_PICKED, pick, selection } from "../../../web/ranking/best_worst.mjs";

const images = ["a", "b", "c", "d", "e"];
const vote = (id, best, worst) => ({ id, kind: "best_worst", best, worst });

test("the first click picks the best, the second the worst among those left", () => {
  const first = selection(images, [], NOTHING_PICKED, 1);
  assert.equal(first.phase, "best");
  const { draft } = pick(first, "b");
  const second = selection(images, [], draft, 1);
  assert.equal(second.phase, "worst");
  assert.deepEqual(pick(second, "d").vote, {
    kind: "best_worst",
    best: "b",
    worst: "d",
    among: images,
  });
});

test("a second click on the best takes it back", () => {
  const where = selection(images, [], { best: "b", goOn: false }, 1);
  assert.deepEqual(pick(where, "b"), { draft: NOTHING_PICKED });
});

test("images of a pair are used up and the next is picked among the rest", () => {
  const where = selection(images, [vote("1", "a", "e")], { best: "c", goOn: false }, 2);
  assert.deepEqual(where.left, ["b", "c", "d"]);
  assert.equal(pick(where, "a"), null);
  assert.deepEqual(pick(where, "d").vote.among, ["b", "c", "d"]);
});

test("with all pairs asked for nothing is picked until one goes on", () => {
  const votes = [vote("1", "a", "e")];
  const done = selection(images, votes, NOTHING_PICKED, 1);
  assert.equal(done.phase, "done");
  assert.ok(done.mayGoOn);
  assert.equal(pick(done, "b"), null);
  assert.equal(selection(images, votes, { best: null, goOn: true }, 1).phase, "best");
});

test("five images make no more than two pairs, whatever is asked for", () => {
  const votes = [vote("1", "a", "e"), vote("2", "b", "d")];
  const where = selection(images, votes, NOTHING_PICKED, 9);
  assert.equal(where.goal, 2);
  assert.equal(where.phase, "done");
  assert.ok(!where.mayGoOn);
});
