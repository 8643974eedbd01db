import assert from "node:assert/strict";
import { test } from "node:test";

import { back, begin, forth, step } from "../../../web/ranking/history.mjs";

test("steps are taken back and again in order", () => {
  const two = step(step(begin("a"), "b"), "c");
  assert.equal(back(two).present, "b");
  assert.equal(back(back(back(two))).present, "a");
  assert.deepEqual(forth(forth(back(back(two)))), two);
});

test("a new step forgets those taken back", () => {
  const other = step(back(step(begin("a"), "b")), "c");
  assert.deepEqual(forth(other), other);
});
