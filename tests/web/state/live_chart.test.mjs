import assert from "node:assert/strict";
import { test } from "node:test";

import { Feed, readRows } from "../../../web/charts/feed.mjs";
import { pictureOf, readPicture } from "../../../web/charts/picture.mjs";
import { Curves } from "../../../web/charts/series.mjs";

const loss = (feed) => feed.curves.series("loss/dpo");
const rows = (from, to, value = 0) =>
  Array.from({ length: to - from + 1 }, (_, i) => ({ step: from + i, "loss/dpo": value }));

function event(first, batch, more = {}) {
  const step = batch.at(-1)?.step ?? more.step;
  return {
    prompt_id: "p", run: "r", first, rows: batch, step, target: 10,
    seconds_left: null, warnings: [], done: false, ended: "", ...more,
  };
}

test("batches make one curve, and a step 0 of validation is in it", () => {
  const feed = new Feed();
  assert.equal(feed.take(event(0, [], { step: 0 }), 0), null);
  assert.equal(feed.take(event(0, [{ step: 0, "dpo/val_loss": 0.69 }]), 0), null);
  assert.equal(feed.take(event(1, rows(1, 3)), 1), null);
  assert.equal(feed.take(event(4, rows(4, 6)), 2), null);
  assert.deepEqual(loss(feed).steps, [1, 2, 3, 4, 5, 6]);
  assert.deepEqual(feed.curves.series("dpo/val_loss").steps, [0]);
  assert.equal(feed.incomplete, false);
});

test("a lost batch is asked for, and what comes meanwhile waits", () => {
  const feed = new Feed();
  feed.take(event(0, rows(1, 2)), 0);
  assert.equal(feed.take(event(4, rows(5, 6)), 0), 2);
  assert.equal(feed.take(event(6, rows(7, 7)), 0), null);
  assert.deepEqual(loss(feed).steps, [1, 2]);
  feed.fill(rows(3, 6));
  assert.deepEqual(loss(feed).steps, [1, 2, 3, 4, 5, 6, 7]);
  assert.equal(feed.incomplete, false);
  assert.equal(feed.take(event(7, rows(8, 8)), 0), null);
});

test("where what is missing cannot be had the curve goes on with a gap", () => {
  const feed = new Feed();
  feed.take(event(0, rows(1, 2)), 0);
  feed.take(event(4, rows(5, 6)), 0);
  feed.fill(null);
  assert.deepEqual(loss(feed).steps, [1, 2, 5, 6]);
  assert.equal(feed.incomplete, true);
});

test("what a training goes on from is asked for before its first row", () => {
  const feed = new Feed();
  assert.equal(feed.take(event(0, [], { step: 100, target: 200 }), 0), -1);
  feed.fill(rows(1, 100));
  assert.equal(feed.take(event(0, rows(101, 101), { target: 200 }), 0), null);
  assert.equal(feed.curves.last, 101);
});

test("a page opened in the middle asks for everything, by event or by asking", () => {
  const late = new Feed();
  assert.equal(late.take(event(7, rows(8, 8)), 0), -1);
  const asked = new Feed();
  const { first, rows: none, ...state } = event(0, rows(8, 8));
  assert.equal(asked.take(state, 0), -1);
  asked.fill(rows(1, 8));
  // Steps 9 and 10 come; that the page missed the first seven does not matter any more.
  assert.equal(asked.take(event(8, rows(9, 10)), 0), 8);
  asked.fill(rows(9, 10));
  assert.equal(asked.take(event(10, rows(11, 11)), 0), null);
  assert.equal(loss(asked).steps.length, 11);
});

test("the same run trained further keeps its curve; another run starts anew", () => {
  const feed = new Feed();
  feed.take(event(0, rows(1, 5), { ended: "finished" }), 0);
  assert.equal(feed.take(event(0, rows(6, 6), { prompt_id: "q", step: 6 }), 0), null);
  assert.equal(feed.curves.first, 1);
  feed.take(event(0, rows(1, 1), { prompt_id: "s", run: "other" }), 0);
  assert.deepEqual(loss(feed).steps, [1]);
});

test("steps done again after a crash replace the old ones", () => {
  const feed = new Feed();
  feed.take(event(0, rows(1, 5, 1)), 0);
  feed.take(event(0, rows(4, 5, 2), { prompt_id: "q" }), 0);
  assert.deepEqual(loss(feed).values, [1, 1, 1, 2, 2]);
});

test("it says where training stands, and counts down between events", () => {
  const feed = new Feed();
  feed.take(event(0, [], { step: 0, target: 200 }), 0);
  assert.equal(feed.status(0), "Getting ready");
  assert.equal(feed.share, 0);
  feed.take(event(0, rows(1, 50), { target: 200, seconds_left: 150 }), 1000);
  assert.equal(feed.status(1000), "Step 50 of 200, 3 min left");
  assert.equal(feed.status(1110), "Step 50 of 200, 40 s left");
  assert.equal(feed.status(9999), "Step 50 of 200, 1 s left");
  assert.equal(feed.share, 0.25);
  feed.take(event(50, [], { step: 50, target: 200, ended: "stopped" }), 1000);
  assert.equal(feed.status(0), "Stopped at step 50 of 200");
  assert.equal(feed.runs, false);
});

test("how a training ended by itself is said", () => {
  const told = (step, ended) => {
    const feed = new Feed();
    feed.take(event(0, rows(1, step), { ended }), 0);
    return feed.status(0);
  };
  assert.equal(told(10, "finished"), "10 steps done");
  assert.equal(told(7, "finished"), "Stopped early at step 7 of 10");
  assert.equal(told(7, "failed"), "Ended by an error at step 7 of 10");
});

test("rows from outside are rows", () => {
  assert.deepEqual(readRows(undefined), []);
  assert.deepEqual(readRows([null, { step: "x" }, { step: 2 }, { step: 1 }, { step: 3 }]), [
    { step: 2 }, { step: 3 },
  ]);
});

test("a picture is small, and the same curves where it is opened", () => {
  const long = Array.from({ length: 5000 }, (_, i) => ({
    step: i + 1, "loss/dpo": 0.6931471 - i / 1e5, "errors/chosen": 1, rho: 1 + i / 1e6,
    ...(i % 50 ? {} : { "dpo/val_accuracy": 0.5, "dpo/val_accuracy_low": 0.4 }),
  }));
  const shown = {
    run: "r", step: 5000, status: "5000 steps done", text: "Healthy.", curves: new Curves(long),
    warnings: [{ step: 7, text: "look", serious: true }],
  };
  const saved = JSON.stringify(pictureOf(shown, [{ run: "o", title: "other", curves: shown.curves }]));
  assert.ok(saved.length < 20_000, String(saved.length));
  const found = readPicture(JSON.parse(saved));
  assert.deepEqual(
    [found.run, found.step, found.status, found.text],
    ["r", 5000, "5000 steps done", "Healthy."],
  );
  assert.deepEqual(found.warnings, shown.warnings);
  const { steps, values } = found.curves.series("loss/dpo");
  assert.deepEqual([steps[0], steps.at(-1), values[0]], [1, 5000, 0.6931]);
  assert.equal(found.curves.series("errors/chosen").steps.length, 0); // no panel shows it
  assert.equal(found.over[0].title, "other");
  assert.equal(found.over[0].curves.last, 5000);
});

test("what is no picture is not shown", () => {
  for (const none of [undefined, null, 3, {}, { v: 1, run: 4 }, { v: 2, run: "r", step: 1 }]) {
    assert.equal(readPicture(none), null);
  }
  const bad = { v: 1, run: "r", step: 3, series: { rho: [1, 1, "x", 2, 2, 1e999, 1, 5, 3, 4] } };
  assert.deepEqual(readPicture(bad).curves.series("rho"), { steps: [1, 3], values: [1, 4] });
});

test("a workflow does not tell where its maker's folders are", () => {
  const curves = new Curves(rows(1, 2));
  const kept = (text) => pictureOf({ run: "r", step: 2, status: "", curves, warnings: [], text }).text;
  assert.equal(
    kept("Kept: LoRA /home/a person/UI/output/loras/x.safetensors; go on (C:\\UI\\output\\dpo)."),
    "Kept: LoRA output/loras/x.safetensors; go on (output\\dpo).",
  );
  assert.equal(kept("The run is kept in output/dpo/runs/1. 3/4 output/x"), "The run is kept in output/dpo/runs/1. 3/4 output/x");
});
