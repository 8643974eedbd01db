import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { chosenPairs } from "../../../web/ranking/pair_making.mjs";

const file = new URL("../../ranking/vectors/pairs.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8"));

test("any votes make the pairs that Python makes of them", () => {
  assert.ok(vectors.length > 50 && vectors.some((one) => one.pairs.length > 2));
  vectors.forEach(({ images, votes, pairs_per_group, pairs }, i) => {
    const made = chosenPairs(images, votes, pairs_per_group).map((pair) => [
      pair.chosen,
      pair.rejected,
      pair.explicit,
      Math.round(pair.probability * 1e6) / 1e6,
    ]);
    assert.deepEqual(made, pairs, `vector ${i}`);
  });
});

const images = ["a", "b", "c", "d"].map((id) => ({ id, width: 1, height: 1 }));
const sized = (id, width, height) => ({ id, width, height });
const two = (pairs) => pairs.map((pair) => [pair.chosen, pair.rejected]);

test("the outermost images of an order make the first pair, each image once", () => {
  const votes = [{ kind: "ranking", order: [["a"], ["b"], ["c"], ["d"]] }];
  assert.deepEqual(two(chosenPairs(images, votes, 2)), [["a", "d"], ["b", "c"]]);
  assert.deepEqual(two(chosenPairs(images, votes, 1)), [["a", "d"]]);
});

test("what was said in another mode counts as well", () => {
  const votes = [
    { kind: "best_worst", best: "b", worst: "c", among: ["a", "b", "c", "d"] },
    { kind: "ranking", order: [["a"], ["d"]] },
  ];
  assert.deepEqual(two(chosenPairs(images, votes, 2)), [["b", "c"], ["a", "d"]]);
});

test("tied images and those of two sizes make no pair", () => {
  assert.deepEqual(chosenPairs(images, [{ kind: "ranking", order: [["a", "b"]] }], 2), []);
  const mixed = [sized("a", 1, 1), sized("b", 2, 1), sized("c", 1, 1)];
  const votes = [{ kind: "ranking", order: [["a"], ["c"], ["b"]] }];
  assert.deepEqual(two(chosenPairs(mixed, votes, 2)), [["a", "c"]]);
});

test("a good image beats a bad one, unless the two were tied", () => {
  const marked = { kind: "thumbs", labels: { a: "bad", c: "good", d: "good" } };
  assert.deepEqual(two(chosenPairs(images, [marked], 1)), [["c", "a"]]);
  const tie = { kind: "comparison", left: "a", right: "c", result: "tie" };
  assert.deepEqual(two(chosenPairs(images, [marked, tie], 1)), [["d", "a"]]);
});

test("64 images are worked out within a frame", () => {
  const { images: many, votes } = vectors.at(-1);
  chosenPairs(many, votes, 32);
  const start = performance.now();
  chosenPairs(many, votes, 32);
  const took = performance.now() - start;
  assert.ok(took < 100, `${took} ms`);
});
