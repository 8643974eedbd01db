import assert from "node:assert/strict";
import { test } from "node:test";

import { badges } from "../../../web/ranking/pair_badge.mjs";

test("a badge tells each image's pair and side", () => {
  const found = badges([{ chosen: "a", rejected: "d" }, { chosen: "b", rejected: null }]);
  assert.deepEqual(found.get("d"), { number: 1, role: "rejected" });
  assert.deepEqual(found.get("b"), { number: 2, role: "chosen" });
  assert.equal(found.size, 3);
});
