import assert from "node:assert/strict";
import { test } from "node:test";

import { RunList } from "../../../web/runs/run_list.mjs";

const run = (id, more = {}) => ({
  id,
  title: `taste ${id}`,
  model: "sdxl.safetensors",
  loss: "sigmoid",
  status: "finished",
  step: 10,
  last_step: 10,
  target: 10,
  changed: 5,
  bytes: 100,
  ...more,
});

function listOf(...runs) {
  const list = new RunList();
  list.take({ runs, bytes: runs.reduce((sum, one) => sum + one.bytes, 0) });
  return list;
}

const ids = (runs) => runs.map(({ id }) => id);

test("search takes every word, in names, models, losses and ids", () => {
  const list = listOf(run("a", { title: "Warm Skies" }), run("b", { loss: "kto" }), run("c"));
  const found = (search) => {
    list.search = search;
    return ids(list.shown);
  };
  assert.deepEqual(found(""), ["a", "b", "c"]);
  assert.deepEqual(found("  warm  SKIES "), ["a"]);
  assert.deepEqual(found("kto sdxl"), ["b"]);
  assert.deepEqual(found("warm kto"), []);
  assert.deepEqual(found("(.*"), []);
});

test("a status leaves those of it", () => {
  const list = listOf(run("a"), run("b", { status: "failed" }));
  list.status = "failed";
  assert.deepEqual(ids(list.shown), ["b"]);
});

test("an event moves its run to the top and tells how far it is", () => {
  const list = listOf(run("a"), run("b", { accuracy: 0.5 }));
  const rows = [{ step: 11, "dpo/accuracy": 1 }, { step: 12, "dpo/val_accuracy": 0.75 }];
  const ask = list.follow({ run: "b", rows, step: 12, target: 20 }, 99);
  assert.ok(ask, "the server knows more of a run that begins");
  assert.deepEqual(ids(list.runs), ["b", "a"]);
  const [first] = list.runs;
  assert.equal(first.status, "running");
  assert.deepEqual([first.last_step, first.target, first.changed], [12, 20, 99]);
  assert.equal(first.accuracy, 0.55);
  assert.equal(first.val_accuracy, 0.75);
  assert.equal(list.follow({ run: "b", rows: [], step: 13, target: 20 }, 100), false);
  assert.equal(list.follow({ run: "b", rows: [], step: 20, target: 20, done: true }, 101), true);
});

test("a run that nobody has told of yet is listed at once", () => {
  const list = listOf();
  assert.ok(list.follow({ run: "new", rows: [{ step: 1 }], step: 1, target: 4 }, 1));
  assert.equal(list.get("new").last_step, 1);
  assert.ok(list.isRunning);
});

test("a deleted run is off the list and off the sum, and its neighbour is next", () => {
  const list = listOf(run("a"), run("b"), run("c"));
  assert.equal(list.neighbour("b"), "c");
  assert.equal(list.neighbour("c"), "b");
  list.drop("b");
  list.drop("b");
  assert.deepEqual(ids(list.runs), ["a", "c"]);
  assert.equal(list.bytes, 200);
  assert.equal(listOf(run("a")).neighbour("a"), null);
});

test("what could not be read leaves the list as it was", () => {
  const list = listOf(run("a"));
  list.fail("gone");
  assert.deepEqual([ids(list.shown), list.error], [["a"], "gone"]);
});
