import assert from "node:assert/strict";
import { test } from "node:test";

import { counts, label, labels, nextUnlabelled } from "../../../web/ranking/thumbs.mjs";

const images = ["a", "b", "c"];
const vote = (label) => ({ kind: "thumbs", labels: label });

test("the last label of an image counts", () => {
  const current = labels(images, [vote({ a: "good" }), vote({ a: "bad" }), vote({ x: "good" })]);
  assert.deepEqual([...current], [["a", "bad"], ["b", "none"], ["c", "none"]]);
  assert.deepEqual(counts(current), { good: 0, bad: 1, none: 2 });
});

test("the same label again takes it off", () => {
  const current = labels(images, [vote({ a: "good" })]);
  assert.deepEqual(label(current, "a", "good").labels, { a: "none" });
  assert.deepEqual(label(current, "a", "bad").labels, { a: "bad" });
  assert.equal(label(current, "b", "none"), null);
  assert.equal(label(current, "x", "good"), null);
});

test("the next image without a label is looked for behind this one, then from the start", () => {
  const current = labels(images, [vote({ b: "good" })]);
  assert.equal(nextUnlabelled(images, current, "a"), "c");
  assert.equal(nextUnlabelled(images, current, "c"), "a");
  assert.equal(nextUnlabelled(["b"], current, "b"), null);
});
