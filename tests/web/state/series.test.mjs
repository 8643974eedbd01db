import assert from "node:assert/strict";
import { test } from "node:test";

import {
  Curves,
  bounds,
  duration,
  nearest,
  padded,
  shortNumber,
  smoothed,
  thinned,
  tickNumber,
  ticks,
  valueAt,
} from "../../../web/charts/series.mjs";
import { FIRST_PANELS, METRICS, readView } from "../../../web/charts/panels.mjs";

const rows = (from, to, value = (step) => step) =>
  Array.from({ length: to - from + 1 }, (_, i) => ({ step: from + i, loss: value(from + i) }));

test("rows become one series for each metric, without what is no number", () => {
  const curves = new Curves([
    { step: 0, "dpo/val_accuracy": 0.5 },
    { step: 1, loss: 0.7, rho: null },
    { step: 2, loss: Number.NaN },
    { step: 3, loss: 0.6, rho: 1 },
  ]);
  assert.deepEqual(curves.series("loss"), { steps: [1, 3], values: [0.7, 0.6] });
  assert.deepEqual(curves.series("rho"), { steps: [3], values: [1] });
  assert.deepEqual(curves.series("dpo/val_accuracy").steps, [0]);
  assert.deepEqual(curves.series("nothing").steps, []);
  assert.deepEqual([curves.first, curves.last], [0, 3]);
});

test("batches are joined, and steps done again replace what followed", () => {
  const curves = new Curves(rows(1, 5));
  curves.add(rows(6, 8));
  assert.deepEqual(curves.series("loss").steps, [1, 2, 3, 4, 5, 6, 7, 8]);
  const { version } = curves;
  curves.add(rows(4, 5, () => -1));
  assert.deepEqual(curves.series("loss").values, [1, 2, 3, -1, -1]);
  assert.equal(curves.last, 5);
  assert.notEqual(curves.version, version);
});

test("what comes after a step can be forgotten, all of it too", () => {
  const curves = new Curves(rows(1, 5));
  curves.cut(9);
  curves.cut(3);
  assert.deepEqual([curves.first, curves.last], [1, 3]);
  curves.cut(0);
  assert.deepEqual([curves.first, curves.last, curves.metrics], [Infinity, -1, []]);
  curves.add(rows(1, 2));
  assert.deepEqual([curves.first, curves.last], [1, 2]);
});

test("smoothing is a running mean that starts at the first value", () => {
  // Decay 1/2: 8; (4 + 0) / (1/4 + 1/2); ...
  const series = { steps: [1, 2, 3], values: [8, 0, 0] };
  const found = smoothed(series, 2);
  [8, 8 / 3, 8 / 7].forEach((value, i) => assert.ok(Math.abs(found[i] - value) < 1e-12));
  assert.deepEqual(smoothed(series, 1), [8, 0, 0]);
});

test("over missing steps smoothing forgets as much as over those steps", () => {
  const [, found] = smoothed({ steps: [1, 3], values: [8, 0] }, 2);
  // Decay 1/4: the first has 1/2 * 1/4, the second 3/4.
  assert.ok(Math.abs(found - (8 * 0.125) / (0.125 + 0.75)) < 1e-12);
});

test("smoothed curves follow new rows", () => {
  const curves = new Curves(rows(1, 2, () => 4));
  assert.deepEqual(curves.smooth("loss", 10).values, [4, 4]);
  curves.add(rows(3, 3, () => 4));
  assert.deepEqual(curves.smooth("loss", 10).steps, [1, 2, 3]);
  assert.equal(curves.smooth("loss", 1), curves.series("loss"));
});

test("thinning keeps the ends and every extreme", () => {
  const steps = Array.from({ length: 10_000 }, (_, i) => i + 1);
  const values = steps.map((step) => (step === 4321 ? 99 : step === 7777 ? -99 : step % 7));
  const found = thinned({ steps, values }, 100);
  assert.ok(found.steps.length <= 100 && found.steps.length > 60, String(found.steps.length));
  assert.deepEqual([found.steps[0], found.steps.at(-1)], [1, 10_000]);
  assert.equal(found.values[found.steps.indexOf(4321)], 99);
  assert.equal(found.values[found.steps.indexOf(7777)], -99);
  assert.deepEqual(found.steps, [...new Set(found.steps)].sort((a, b) => a - b));
  const few = { steps: [1, 2], values: [3, 4] };
  assert.equal(thinned(few, 100), few);
});

test("bounds hold everything, or all but the wildest", () => {
  assert.deepEqual(bounds([[3, 1], [], [2, 7]]), { low: 1, high: 7 });
  assert.equal(bounds([[], []]), null);
  const values = [...Array.from({ length: 98 }, (_, i) => i), 1e6, -1e6];
  assert.deepEqual(bounds([values], 0.01), { low: 0, high: 97 });
  assert.deepEqual(bounds([[1, 50]], 0.01), { low: 1, high: 50 });
  assert.deepEqual(padded({ low: 2, high: 2 }), { low: 0, high: 4 });
  assert.deepEqual(padded({ low: 0, high: 0 }), { low: -1, high: 1 });
  const rounded = padded({ low: 0.6 - 1e-16, high: 0.6 });
  assert.ok(rounded.high - rounded.low > 1);
  assert.deepEqual(padded({ low: 0, high: 10 }, 0.1), { low: -1, high: 11 });
});

test("the nearest step is found, and the value that holds at one", () => {
  assert.deepEqual(
    [-4, 1, 3, 4, 5, 99].map((step) => nearest([1, 2, 6], step)),
    [0, 0, 1, 1, 2, 2],
  );
  assert.equal(nearest([], 3), -1);
  const series = { steps: [10, 20], values: [1, 2] };
  assert.deepEqual([9, 10, 19, 20, 21].map((step) => valueAt(series, step)), [
    undefined, 1, 1, 2, 2,
  ]);
});

test("ticks are round numbers within bounds", () => {
  assert.deepEqual(ticks(0, 1, 2), [0, 0.5, 1]);
  assert.deepEqual(ticks(0.31, 0.74, 3), [0.4, 0.6]);
  assert.deepEqual(ticks(-3e-5, 2e-5, 2), [0]);
  assert.deepEqual(ticks(1, 1, 3), []);
  assert.deepEqual(ticks(0.6, 0.6 + 1e-15, 3), []);
});

test("numbers at ticks differ", () => {
  const written = (all) => all.map((value) => tickNumber(value, all));
  assert.deepEqual(written([0.9985, 0.999, 0.9995, 1]), ["0.9985", "0.9990", "0.9995", "1.0000"]);
  assert.deepEqual(written([1, 1.00001]), ["1.00000", "1.00001"]);
  assert.deepEqual(written([0, 0.5, 1]), ["0", "0.5", "1.0"]);
  assert.deepEqual(written([0, 1e-5, 2e-5]), ["0", "1e-5", "2e-5"]);
  assert.deepEqual(written([0.4]), ["0.4"]);
});

test("numbers and times are short", () => {
  assert.deepEqual(
    [0, 0.69314, 1250.4, 0.000021, -0.00005, 123456, 12].map((value) => shortNumber(value)),
    ["0", "0.693", "1250", "2.1e-5", "-5e-5", "1.2e5", "12"],
  );
  assert.deepEqual(
    [0.2, 45, 61, 3599, 4800, 7200, 183600].map(duration),
    ["1 s", "45 s", "1 min", "1 h", "1 h 20 min", "2 h", "2 d 3 h"],
  );
});

test("a choice of panels from anywhere is one that can be drawn", () => {
  assert.deepEqual(readView(undefined), { panels: FIRST_PANELS, span: 10 });
  assert.deepEqual(readView({ panels: ["rho", "loss", "none"], span: 50 }), {
    panels: ["loss", "rho"], // in the order of the list
    span: 50,
  });
  assert.deepEqual(readView({ panels: [], span: 1e9 }), { panels: FIRST_PANELS, span: 10 });
  assert.ok(METRICS.includes("dpo/val_accuracy_low"));
});
