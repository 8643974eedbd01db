import assert from "node:assert/strict";
import { test } from "node:test";

import { NOTHING_PICKED, mayPick, pick as pickOf, selection } from "../../../web/ranking/best_worst.mjs";

const images = ["a", "b", "c", "d", "e"];
const sizes = new Map(images.map((id) => [id, { width: 8, height: id === "e" ? 4 : 8 }]));
const alike = new Map();
const pick = (where, image) => pickOf(where, image, alike);
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
  const further = selection(images, votes, { best: null, goOn: true }, 1);
  assert.equal(further.phase, "best");
  const { draft } = pick(further, "b");
  assert.deepEqual(pick(selection(images, votes, draft, 1), "d").vote.among, ["b", "c", "d"]);
});

test("five images make no more than two pairs, whatever is asked for", () => {
  const votes = [vote("1", "a", "e"), vote("2", "b", "d")];
  const where = selection(images, votes, NOTHING_PICKED, 9);
  assert.equal(where.goal, 2);
  assert.equal(where.phase, "done");
  assert.ok(!where.mayGoOn);
});

test("the worst is not picked among images of another size, which make no pair", () => {
  const where = selection(images, [], { best: "a", goOn: false }, 1);
  assert.equal(pickOf(where, "e", sizes), null);
  assert.ok(!mayPick(where, "e", sizes));
  assert.equal(pickOf(where, "d", sizes).vote.worst, "d");
});
