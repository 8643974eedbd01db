// How the training goes.

import { action, counted } from "./parts.mjs";
import { el, setHidden, setText } from "./element.mjs";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [300, 100, 8];

export class TrainView {
  constructor(go) {
    this._title = el("h2");
    this._bar = el("progress", {});
    this._bar.setAttribute("aria-label", "Training");
    this._said = el("p", { className: "dim" });
    this._loss = new Chart("Loss", "starts at 0.693 and falls", Math.log(2));
    this._accuracy = new Chart("Accuracy", "leans towards your pick", 0.5, 1);
    const charts = [this._loss.element, this._accuracy.element];
    this._charts = el("div", { className: "charts" }, ...charts);
    this._button = action("Train on my picks", () => go.ask("/demo/train"), "main");
    const buttons = el("div", { className: "buttons" }, this._button);
    const panel = [this._title, this._bar, this._said, this._charts, buttons];
    this.element = el("div", { className: "panel" }, ...panel);
  }

  update(state) {
    const { job, steps, pairs, min_pairs } = state;
    setText(this._title, titleOf(state));
    setHidden(this._bar, !job?.total);
    if (job?.total) {
      this._bar.max = job.total;
      this._bar.value = job.done;
    }
    const enough = pairs >= min_pairs;
    setText(
      this._said,
      job
        ? "You may close this page: it goes on, and all of it is kept."
        : enough
          ? `${counted(pairs, "pair")} to train on, in ${counted(steps.each, "step")}.`
          : `${counted(pairs, "pair")} so far; ${min_pairs} are needed. Rank some more groups.`,
    );
    setHidden(this._charts, !state.metrics.length);
    this._loss.show(state.metrics.map((row) => row.loss), (value) => value.toFixed(3));
    const percent = (value) => `${Math.round(100 * value)} %`;
    this._accuracy.show(state.metrics.map((row) => row.accuracy), percent);
    setHidden(this._button, Boolean(job));
    this._button.disabled = !enough;
    setText(this._button, steps.done < steps.aim ? "Go on training" : "Train on my picks");
  }
}

function titleOf({ job, steps }) {
  if (job?.stage === "training" && job.total) return `Training: step ${job.done} of ${job.total}`;
  if (job) return `${job.stage[0].toUpperCase()}${job.stage.slice(1)}…`;
  if (steps.done < steps.aim) return `Stopped at step ${steps.done} of ${steps.aim}`;
  return steps.done ? `Trained ${counted(steps.done, "step")}` : "Nothing is trained yet";
}

/** A line from left to right; `level` is where it would be if nothing was learned. */
class Chart {
  constructor(name, says, level, top = 0) {
    this._level = level;
    this._top = top;
    this._value = el("strong");
    this._line = draw("polyline");
    this._mark = draw("line", { x1: 0, x2: WIDTH });
    const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
    const picture = draw("svg", { ...box, "aria-hidden": "true" });
    picture.append(this._mark, this._line);
    const caption = el("figcaption", {}, `${name}: ${says}`, this._value);
    caption.classList.add("dim");
    this.element = el("figure", { className: "chart" }, caption, picture);
  }

  show(values, written) {
    const known = values.filter((one) => typeof one === "number");
    setText(this._value, known.length ? written(known.at(-1)) : "");
    const high = Math.max(...known, this._level, this._top);
    const low = Math.min(...known, this._level, 0);
    const y = (value) => HEIGHT - EDGE - ((value - low) / (high - low)) * (HEIGHT - 2 * EDGE);
    const x = (i) => (known.length > 1 ? (i / (known.length - 1)) * WIDTH : 0);
    this._line.setAttribute("points", known.map((one, i) => `${x(i)},${y(one)}`).join(" "));
    for (const name of ["y1", "y2"]) this._mark.setAttribute(name, y(this._level));
  }
}

function draw(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
