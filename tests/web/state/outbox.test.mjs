import assert from "node:assert/strict";
import { test } from "node:test";

import { votesNow } from "../../../web/ranking/outbox.mjs";

const judged = { id: "j", kind: "ranking", by: "judge", order: [["a"], ["b"]] };
const cast = (vote) => [{ op: "vote", vote }];

test("a judge's word gives way where a person says something, and not where they pass over", () => {
  const pick = { id: "p", kind: "best_worst", best: "b", worst: "a" };
  const skip = { id: "s", kind: "comparison", left: "a", right: "b", result: "skip" };
  assert.deepEqual(votesNow([judged], cast(pick)), [pick]);
  assert.deepEqual(votesNow([judged], cast(skip)), [judged, skip]);
  assert.deepEqual(votesNow([judged], []), [judged]);
});
