// The curves as a workflow keeps them: few points of each, so that files stay small, and enough to
// see on a machine where the run is not.

import { finished, readWarnings } from "./feed.mjs";
import { METRICS } from "./panels.mjs";
import { Curves, thinned } from "./series.mjs";

const POINTS = 100;
const MOST_POINTS = 2000;
const DIGITS = 4;
const MOST_TEXT = 3000;

/**
 * @param {{run, step, status, curves, warnings, text}} shown
 * @param over other runs laid over it: [{run, title, curves}]
 */
export function pictureOf({ run, step, status, curves, warnings, text = "" }, over = []) {
  return {
    v: 1,
    run,
    step,
    status,
    text: withoutHome(text).slice(0, MOST_TEXT),
    series: pack(curves),
    warnings: warnings.map((one) => ({ ...one })),
    over: over.map((one) => ({ run: one.run, title: one.title, series: pack(one.curves) })),
  };
}

/** A picture from a workflow as something to show; null where it is none. */
export function readPicture(value) {
  if (value?.v !== 1 || typeof value.run !== "string" || !Number.isFinite(value.step)) return null;
  const curves = unpack(value.series);
  if (curves.last < 0) return null;
  const over = Array.isArray(value.over) ? value.over : [];
  return {
    run: value.run,
    step: value.step,
    status: typeof value.status === "string" ? value.status : finished(value.step),
    text: typeof value.text === "string" ? value.text.slice(0, MOST_TEXT) : "",
    curves,
    warnings: readWarnings(value.warnings),
    over: over
      .filter((one) => typeof one?.run === "string" && typeof one.title === "string")
      .map(({ run, title, series }) => ({ run, title, curves: unpack(series) })),
  };
}

/** Where a person's output folder lies is nobody's business who opens the workflow. */
function withoutHome(text) {
  return text.replace(/(?<=^|[\s(])(?:[A-Za-z]:)?[\\/](?:[^\n()"]*?[\\/])?output(?=[\\/])/g, "output");
}

/** {metric: [step, value, step, value, ...]} */
function pack(curves) {
  const packed = {};
  for (const metric of METRICS) {
    const { steps, values } = thinned(curves.series(metric), POINTS);
    if (steps.length) {
      packed[metric] = steps.flatMap((step, i) => [step, Number(values[i].toPrecision(DIGITS))]);
    }
  }
  return packed;
}

function unpack(packed) {
  const series = {};
  for (const metric of METRICS) {
    const numbers = packed?.[metric];
    if (!Array.isArray(numbers) || numbers.length > 2 * MOST_POINTS) continue;
    const [steps, values] = [[], []];
    for (let i = 0; i + 1 < numbers.length; i += 2) {
      const [step, value] = [numbers[i], numbers[i + 1]];
      if (!Number.isFinite(step) || !Number.isFinite(value)) continue;
      if (steps.length && step <= steps.at(-1)) continue;
      steps.push(step);
      values.push(value);
    }
    series[metric] = { steps, values };
  }
  return Curves.of(series);
}
