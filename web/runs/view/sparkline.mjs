// A run's loss as a line so small that it is its picture in a list.

import { Curves } from "../../charts/series.mjs";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, ROOM] = [56, 40, 3];
/** Rows that such a line can show. */
export const SPARK_ROWS = 80;

/** The picture of metrics rows; null where there is nothing to draw. */
export function sparkline(rows) {
  const curves = new Curves(rows);
  const { steps, values } = curves.smooth("loss/dpo", Math.max(1, (curves.last - curves.first) / 8));
  if (steps.length < 2) return null;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (step) => ROOM + ((WIDTH - 2 * ROOM) * (step - steps[0])) / (steps.at(-1) - steps[0] || 1);
  const y = (value) =>
    high > low ? HEIGHT - ROOM - ((HEIGHT - 2 * ROOM) * (value - low)) / (high - low) : HEIGHT / 2;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  const points = steps.map((step, i) => `${x(step).toFixed(1)},${y(values[i]).toFixed(1)}`);
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}
