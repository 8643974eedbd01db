import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, bytes, counted, percent, progress, results, told } from "../../../web/runs/words.mjs";

const plain = (text) => text.replaceAll("\u00a0", " ");

test("bytes are as short as they can be read", () => {
  assert.equal(plain(bytes(0)), "0 B");
  assert.equal(plain(bytes(998)), "998 B");
  assert.equal(plain(bytes(1024)), "1 KB");
  assert.equal(plain(bytes(1.5 * 1024 ** 2)), "1.5 MB");
  assert.equal(plain(bytes(1000 * 1024 ** 2)), "0.977 GB");
  assert.equal(plain(bytes(1.8 * 1024 ** 3)), "1.8 GB");
  assert.equal(plain(bytes(5000 * 1024 ** 4)), "5000 TB");
});

test("times are told from now, and as dates where that is weeks", () => {
  const now = 1_700_000_000;
  assert.equal(ago(now + 60, now), "just now"); // the clock was set back
  assert.equal(ago(now - 89, now), "just now");
  assert.equal(ago(now - 600, now), "10 min ago");
  assert.equal(ago(now - 3600 * 3, now), "3 h ago");
  assert.equal(ago(now - 86400 * 3, now), "3 days ago");
  assert.equal(ago(now - 86400 * 30, now), "2023-10-15");
});

test("progress names the target only while it is ahead", () => {
  const run = { step: 50, last_step: 63, target: 200 };
  assert.equal(progress({ ...run, status: "running" }), "63 of 200 steps");
  assert.equal(progress({ ...run, status: "interrupted" }), "50 of 200 steps");
  assert.equal(progress({ ...run, step: 200, status: "finished" }), "200 steps");
  assert.equal(progress({ step: 1, last_step: 1, target: 0, status: "stopped" }), "1 step");
});

test("results are those that were measured", () => {
  assert.equal(results({ accuracy: null, val_accuracy: null }), "");
  assert.equal(plain(results({ accuracy: 0 })), "accuracy 0 %");
  assert.equal(
    plain(
      results({ accuracy: 0.834, val_accuracy: 0.75, val_accuracy_low: 0.5, val_accuracy_high: 0.9 }),
    ),
    "accuracy 83 %, validation 75 % (50 to 90 %)",
  );
  assert.equal(plain(percent(1)), "100 %");
  assert.equal(counted(1, "pair"), "1 pair");
  assert.equal(counted(2, "pair"), "2 pairs");
});

test("what became of a run comes with the reason, where there is one", () => {
  assert.equal(told({ status: "finished", reason: "" }), "Reached the steps asked for.");
  assert.equal(told({ status: "finished", reason: "No progress." }), "No progress.");
  assert.equal(told({ status: "failed", reason: "Out of room." }), "Out of room.");
  assert.match(told({ status: "stopped", reason: "Stopped by you." }), /^Stopped by you. Ended early/);
  assert.equal(told({ status: "running", reason: "of old" }), "Being trained now.");
  assert.equal(told({ status: "unheard of" }), "");
});
