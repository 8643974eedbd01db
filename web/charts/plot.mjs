// Curves on a canvas: panels side by side, read by pointer or keyboard. Knows no host.

import { el, setText } from "../element.mjs";
import { PANELS, readView } from "./panels.mjs";
import {
  bounds,
  nearest,
  padded,
  shortNumber,
  thinned,
  tickNumber,
  ticks,
  valueAt,
} from "./series.mjs";

const FONT = "10px system-ui, sans-serif";
const BOLD = "600 11px system-ui, sans-serif";
const GUTTER = 40;
const [HEAD, FOOT, RIGHT] = [35, 16, 8];
const LEAST_PANEL = [120, 96];
/** Wider than this, panels are put beside each other. */
const WIDEST_PANEL = 460;
const SUMMARY_MS = 2000;
/** Of noisy curves, the share of values at either end that need not fit in. */
const WILD = 0.01;

/** Each tone on a dark ground and on a light one. */
const TONES = {
  blue: ["#74a9ff", "#1f5fc4"],
  green: ["#5fd08a", "#1c7f45"],
  orange: ["#f0a55c", "#a8570a"],
  red: ["#ff7f76", "#c0362b"],
  teal: ["#4fcfc4", "#0d7a73"],
  purple: ["#c8a2ff", "#7338c0"],
};
/** How the first run is drawn, and those laid over it. */
const DASHES = [[], [5, 3], [2, 2], [8, 3, 2, 3]];

let plots = 0;

/**
 * A view of one or more runs by step. A run is {name, curves, marks}: `curves` are `Curves`, and
 * marks [{step, text, serious}] stand at their step.
 *
 * Put `element` somewhere with a height; it fills it. `charts.css` belongs to it.
 */
export class Plot {
  constructor() {
    plots += 1;
    this._runs = [];
    this._target = null;
    this._view = readView(null);
    /** The step that is read; null for the last. */
    this._step = null;
    this._boxes = [];
    this._canvas = el("canvas", { className: "dpo-plot-canvas" });
    this._canvas.setAttribute("aria-hidden", "true");
    this._empty = el("p", { className: "dpo-plot-empty" });
    this._summary = el("p", { className: "dpo-plot-summary", id: `dpo-plot-${plots}` });
    this._field = el("div", { className: "dpo-plot-field", tabIndex: 0, role: "slider" });
    this._field.setAttribute("aria-label", "Training curves, by step");
    this._field.setAttribute("aria-describedby", this._summary.id);
    this._field.append(this._canvas);
    this.element = el("div", { className: "dpo dpo-plot" }, this._field, this._empty, this._summary);
    this._listen();
  }

  _listen() {
    const field = this._field;
    field.addEventListener("pointermove", (event) => this._point(event));
    field.addEventListener("pointerleave", () => this._read(null));
    field.addEventListener("keydown", (event) => this._key(event));
    field.addEventListener("keyup", (event) => event.stopPropagation());
    field.addEventListener("blur", () => this._read(null));
    // Another theme changes colours by variables of the page, and nothing else tells of it.
    this._themes = new MutationObserver(() => this._recolour());
    for (const page of [document.documentElement, document.body]) {
      this._themes.observe(page, { attributes: true });
    }
    this._observer = new ResizeObserver(() => this.draw());
    this._observer.observe(this.element);
  }

  /**
   * What to show: the runs, the first in full lines.
   *
   * @param target the step that training goes to, where it is still on its way
   * @param empty what to say where nothing is known yet
   */
  show(runs, { target = null, empty = "" } = {}) {
    this._runs = runs;
    this._target = target;
    setText(this._empty, empty);
    this._empty.hidden = this._known();
    this._field.hidden = !this._known();
    this.draw();
  }

  /** What a person chose: {panels, span}; see `readView`. */
  setView(view) {
    this._view = readView(view);
    this.draw();
  }

  _known() {
    return this._runs.some(({ curves }) => curves.last >= 0);
  }

  dispose() {
    this._observer.disconnect();
    this._themes.disconnect();
    clearTimeout(this._summarising);
    this._disposed = true;
  }

  /** Draws soon, once for all that changes until then. */
  draw() {
    if (this._drawing || this._disposed) return;
    this._drawing = true;
    requestAnimationFrame(() => {
      this._drawing = false;
      if (!this._disposed) this._draw();
    });
  }

  // Reading values

  _point(event) {
    const box = this._field.getBoundingClientRect();
    const scale = this._field.clientWidth / box.width; // of a node that is zoomed
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const inside = this._boxes.find(
      (one) => x >= one.left - 4 && x <= one.right + 4 && y >= one.outerTop && y <= one.outerBottom,
    );
    if (!inside) return this._read(null);
    const share = (x - inside.left) / (inside.right - inside.left);
    const steps = this._steps();
    const place = nearest(steps, inside.first + share * (inside.last - inside.first));
    this._read(place < 0 ? null : steps[place]);
  }

  /** Every step at which something is known. */
  _steps() {
    const key = this._runs.map(({ curves }) => curves);
    const versions = key.map(({ version }) => version).join();
    const known = this._stepsKnown;
    const same = known?.versions === versions && key.every((one, i) => one === known.key[i]);
    if (same && key.length === known.key.length) return known.steps;
    const all = key.flatMap((curves) => curves.metrics.map((metric) => curves.series(metric).steps));
    const steps = [...new Set(all.flatMap((some) => [...some]))].sort((a, b) => a - b);
    this._stepsKnown = { key, versions, steps };
    return steps;
  }

  _read(step) {
    if (step === this._step) return;
    this._step = step;
    this._tell();
    this.draw();
  }

  _key(event) {
    const steps = this._steps();
    if (!steps.length) return;
    const now = this._step === null ? steps.length - 1 : nearest(steps, this._step);
    const page = Math.max(1, Math.round(steps.length / 10));
    const to = {
      ArrowLeft: now - 1,
      ArrowDown: now - 1,
      ArrowRight: now + 1,
      ArrowUp: now + 1,
      PageDown: now - page,
      PageUp: now + page,
      Home: 0,
      End: steps.length - 1,
    }[event.key];
    if (to === undefined && !(event.key === "Escape" && this._step !== null)) return;
    event.preventDefault();
    event.stopPropagation();
    this._read(to === undefined ? null : steps[Math.min(steps.length - 1, Math.max(0, to))]);
  }

  // Drawing

  _draw() {
    const field = this._field;
    const [width, height] = [field.clientWidth, field.clientHeight];
    if (!width || !height || !this._known()) return;
    const pen = this._pen(width, height);
    this._ink = this._colours();
    const { first, last } = this._span();
    this._boxes = this._layOut(width, height, first, last);
    for (const box of this._boxes) this._drawPanel(pen, box);
    this._tell();
  }

  /** The canvas, cleared, as sharp as the screen and the zoom of the page ask for. */
  _pen(width, height) {
    const zoom = this._field.getBoundingClientRect().width / width || 1;
    const sharp = (globalThis.devicePixelRatio || 1) * Math.min(3, Math.max(1, zoom));
    const [across, down] = [Math.round(width * sharp), Math.round(height * sharp)];
    const canvas = this._canvas;
    if (canvas.width !== across) canvas.width = across;
    if (canvas.height !== down) canvas.height = down;
    const pen = canvas.getContext("2d");
    pen.setTransform(across / width, 0, 0, down / height, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  }

  _recolour() {
    if (!this._ink || !this.element.isConnected) return;
    const { text, back } = this._colours();
    if (text !== this._ink.text || back !== this._ink.back) this.draw();
  }

  _colours() {
    const style = getComputedStyle(this.element);
    const [r, g, b] = (style.backgroundColor.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
    const light = 0.299 * r + 0.587 * g + 0.114 * b > 128;
    const tones = Object.fromEntries(
      Object.entries(TONES).map(([name, pair]) => [name, pair[light ? 1 : 0]]),
    );
    const line = light ? "rgba(0, 0, 0, 0.13)" : "rgba(255, 255, 255, 0.13)";
    const dim = light ? "rgba(0, 0, 0, 0.62)" : "rgba(255, 255, 255, 0.62)";
    return { ...tones, text: style.color, dim, line, back: style.backgroundColor };
  }

  _span() {
    const known = this._runs.filter(({ curves }) => curves.last >= 0);
    const first = Math.min(...known.map(({ curves }) => curves.first));
    const last = Math.max(...known.map(({ curves }) => curves.last));
    return { first, last: Math.max(first + 1, ahead(first, last, this._target)) };
  }

  _layOut(width, height, first, last) {
    const panels = PANELS.filter(({ id }) => this._view.panels.includes(id));
    const columns = columnsFor(panels.length, width, height);
    const rows = Math.ceil(panels.length / columns);
    return panels.map((panel, i) => {
      const [across, down] = [width / columns, height / rows];
      const [x, y] = [(i % columns) * across, Math.floor(i / columns) * down];
      return {
        panel,
        first,
        last,
        left: x + GUTTER,
        right: x + across - RIGHT,
        top: y + HEAD,
        bottom: y + down - FOOT,
        outerTop: y,
        outerBottom: y + down,
        outerLeft: x + 4,
      };
    });
  }

  _drawPanel(pen, box) {
    const { panel } = box;
    const drawn = this._runs.flatMap(({ curves, name }, run) =>
      panel.curves.map((curve) => this._curve(panel, curve, curves, run, name)),
    );
    const some = drawn.filter(({ raw }) => raw.steps.length);
    const scale = scaleOf(panel, some);
    this._drawLegend(pen, box, some);
    if (!scale) {
      this._text(pen, "nothing logged", box.left, (box.top + box.bottom) / 2, this._ink.dim);
      return;
    }
    const place = (step, value) => [
      box.left + ((step - box.first) / (box.last - box.first)) * (box.right - box.left),
      box.bottom - ((value - scale.low) / (scale.high - scale.low)) * (box.bottom - box.top),
    ];
    this._drawAxes(pen, box, scale, place);
    pen.save();
    pen.beginPath();
    pen.rect(box.left - 4, box.top - 2, box.right - box.left + 8, box.bottom - box.top + 4);
    pen.clip();
    this._drawMarks(pen, box, place);
    const most = 2 * Math.max(40, Math.round(box.right - box.left));
    for (const curve of some) this._drawCurve(pen, curve, place, most);
    pen.restore();
    this._drawReading(pen, box, some, place);
  }

  /** A curve as it is drawn: with the panel's own unit. */
  _curve(panel, curve, curves, run, name) {
    const mapped = (series) =>
      panel.map ? { steps: series.steps, values: series.values.map(panel.map) } : series;
    const raw = mapped(curves.series(curve.metric));
    const plain = curve.points || curve.smooth === false;
    return {
      ...curve,
      run,
      runName: name,
      plain,
      raw,
      smooth:
        plain || this._view.span === 1
          ? raw
          : mapped(curves.smooth(curve.metric, this._view.span)),
      interval: (curve.interval ?? []).map((metric) => mapped(curves.series(metric))),
    };
  }

  _drawLegend(pen, box, drawn) {
    pen.font = BOLD;
    pen.textBaseline = "top";
    pen.fillStyle = this._ink.text;
    pen.fillText(box.panel.title, box.outerLeft, box.outerTop + 2);
    const titled = pen.measureText(box.panel.title).width;
    if (this._step !== null) {
      const step = `step ${this._step}`;
      pen.font = FONT;
      const x = box.right - pen.measureText(step).width;
      if (x > box.outerLeft + titled + 6) this._text(pen, step, x, box.outerTop + 8, this._ink.dim);
    }
    pen.font = FONT;
    let x = box.outerLeft;
    for (const { curve, text, width } of this._entries(pen, box, drawn)) {
      if (x + width > box.right && x > box.outerLeft) break;
      this._sample(pen, curve, x, box.outerTop + 22);
      this._text(pen, text, x + 14, box.outerTop + 22, this._ink.text);
      x += width + 8;
    }
  }

  /** Names and values of the curves. Where there is no room, names go first: those of dots. */
  _entries(pen, box, drawn) {
    const several = new Set(drawn.map(({ run }) => run)).size > 1;
    let entries = [];
    for (const named of [() => drawn.length > 1, ({ points }) => !points, () => false]) {
      entries = drawn.flatMap((curve) => {
        const value = valueAt(curve.smooth, this._step ?? Infinity);
        if (value === undefined) return [];
        const words = named(curve) ? `${this._label(curve, several)} ` : "";
        const text = words + this._format(box.panel, value);
        return [{ curve, text, width: 14 + pen.measureText(text).width }];
      });
      const needed = entries.reduce((sum, { width }) => sum + width + 8, -8);
      if (needed <= box.right - box.outerLeft) break;
    }
    return entries;
  }

  _label(curve, several) {
    return several && curve.run > 0 ? `${curve.runName}: ${curve.name}` : curve.name;
  }

  _format(panel, value) {
    return panel.format ? panel.format(value) : shortNumber(value, panel.digits);
  }

  _sample(pen, curve, x, y) {
    pen.strokeStyle = pen.fillStyle = this._ink[curve.tone];
    pen.lineWidth = 2;
    if (curve.points) dot(pen, x + 5, y, 3, curve.run > 0);
    else {
      pen.setLineDash(DASHES[curve.run % DASHES.length]);
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x + 11, y);
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  _text(pen, text, x, y, colour) {
    pen.font = FONT;
    pen.textBaseline = "middle";
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  }

  _drawAxes(pen, box, scale, place) {
    const { panel, first, last, left, right, bottom } = box;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    const count = Math.max(bottom - box.top > 60 ? 3 : 2, Math.round((bottom - box.top) / 34));
    const found = ticks(scale.low, scale.high, count);
    for (const value of found) {
      const y = Math.round(place(0, value)[1]) + 0.5;
      line(pen, [left, y], [right, y], this._ink.line);
      const text = panel.format ? panel.format(value) : tickNumber(value, found);
      this._text(pen, text, left - 4, y, this._ink.dim);
    }
    if (panel.line !== undefined && panel.line > scale.low && panel.line < scale.high) {
      const y = Math.round(place(0, panel.line)[1]) + 0.5;
      pen.setLineDash([3, 3]);
      line(pen, [left, y], [right, y], this._ink.dim);
      pen.setLineDash([]);
    }
    pen.textAlign = "center";
    for (const step of ticks(first, last, Math.max(1, Math.floor((right - left) / 60)))) {
      if (!Number.isInteger(step)) continue;
      const x = Math.min(right - 6, Math.max(left + 2, place(step, 0)[0]));
      this._text(pen, String(step), x, bottom + 9, this._ink.dim);
    }
    pen.textAlign = "left";
  }

  /** Warnings: a line in each panel where they were given. */
  _drawMarks(pen, box, place) {
    for (const { marks = [] } of this._runs.slice(0, 1)) {
      for (const { step, serious } of marks) {
        const x = Math.round(place(step, 0)[0]) + 0.5;
        const colour = serious ? this._ink.red : this._ink.orange;
        pen.setLineDash([2, 2]);
        line(pen, [x, box.top], [x, box.bottom], colour);
        pen.setLineDash([]);
        pen.fillStyle = colour;
        pen.beginPath();
        pen.moveTo(x, box.top + 6);
        pen.lineTo(x - 4, box.top - 1);
        pen.lineTo(x + 4, box.top - 1);
        pen.fill();
      }
    }
  }

  _drawCurve(pen, curve, place, most) {
    const colour = this._ink[curve.tone];
    pen.strokeStyle = pen.fillStyle = colour;
    if (curve.points) {
      this._drawPoints(pen, curve, place, most);
      return;
    }
    if (curve.smooth !== curve.raw && curve.raw.steps.length > 1) {
      pen.globalAlpha = curve.run ? 0.15 : 0.32;
      pen.lineWidth = 1;
      path(pen, thinned(curve.raw, most), place);
      pen.globalAlpha = 1;
    }
    pen.lineWidth = curve.run ? 1.4 : 1.8;
    pen.setLineDash(DASHES[curve.run % DASHES.length]);
    path(pen, thinned(curve.smooth, most), place);
    pen.setLineDash([]);
  }

  _drawPoints(pen, curve, place, most) {
    const { steps, values } = thinned(curve.raw, most);
    pen.lineWidth = 1;
    pen.setLineDash(DASHES[curve.run % DASHES.length]);
    path(pen, { steps, values }, place);
    pen.setLineDash([]);
    const [low, high] = curve.interval;
    steps.forEach((step, i) => {
      const [x, y] = place(step, values[i]);
      const ends = [low, high].map((end) => end && valueAt(end, step));
      if (ends.every((end) => end !== undefined)) {
        const [bottom, top] = ends.map((end) => place(step, end)[1]);
        pen.globalAlpha = 0.6;
        for (const [from, to] of [
          [[x, bottom], [x, top]],
          [[x - 3, bottom], [x + 3, bottom]],
          [[x - 3, top], [x + 3, top]],
        ]) {
          line(pen, from, to, pen.strokeStyle);
        }
        pen.globalAlpha = 1;
      }
      dot(pen, x, y, 2.5, curve.run > 0);
    });
  }

  _drawReading(pen, box, drawn, place) {
    if (this._step === null) return;
    const [x] = place(this._step, 0);
    line(pen, [x, box.top], [x, box.bottom], this._ink.dim);
    for (const curve of drawn) {
      const value = valueAt(curve.smooth, this._step);
      if (value === undefined) continue;
      const [, y] = place(0, value);
      if (y < box.top - 1 || y > box.bottom + 1) continue;
      pen.fillStyle = this._ink[curve.tone];
      dot(pen, x, y, 3, false);
    }
  }

  // For those who do not see it

  _tell() {
    if (!this._known()) return;
    const { first, last } = this._span();
    const step = this._step ?? this._runs.find(({ curves }) => curves.last >= 0).curves.last;
    const field = this._field;
    field.setAttribute("aria-valuemin", first);
    field.setAttribute("aria-valuemax", last);
    field.setAttribute("aria-valuenow", step);
    field.setAttribute("aria-valuetext", `Step ${step}: ${this.reading(step).join("; ")}`);
    if (this._summarising) return;
    setText(this._summary, this.summary());
    this._summarising = setTimeout(() => {
      this._summarising = null;
      setText(this._summary, this.summary());
    }, SUMMARY_MS);
  }

  /** What the chosen panels show at a step, in words. */
  reading(step) {
    return this._inWords((series) => valueAt(series, step), (value, format) => format(value));
  }

  /** What the chosen panels show as a whole, in words. */
  summary() {
    const told = this._inWords(
      ({ values }) => (values.length ? [values[0], values.at(-1)] : undefined),
      ([from, to], format) => `from ${format(from)} to ${format(to)}`,
    );
    const marks = this._runs.flatMap(({ marks: all = [] }) => all);
    return [...told, ...marks.map(({ step, text }) => `warning at step ${step}: ${text}`)].join("; ");
  }

  _inWords(find, say) {
    const told = [];
    for (const panel of PANELS.filter(({ id }) => this._view.panels.includes(id))) {
      for (const [run, { curves, name }] of this._runs.entries()) {
        for (const curve of panel.curves) {
          const found = find(this._curve(panel, curve, curves, run, name).smooth);
          if (found === undefined) continue;
          const of = [panel.title.toLowerCase(), panel.curves.length > 1 && curve.name, run && name];
          told.push(`${of.filter(Boolean).join(", ")} ${say(found, (v) => this._format(panel, v))}`);
        }
      }
    }
    return told;
  }
}

/** Columns that leave panels readable and fill the place best. */
export function columnsFor(count, width, height) {
  const most = Math.max(1, Math.min(count, Math.floor(width / LEAST_PANEL[0])));
  let columns = Math.max(1, Math.min(most, Math.ceil(width / WIDEST_PANEL)));
  while (columns < most && height / Math.ceil(count / columns) < LEAST_PANEL[1]) columns += 1;
  // A last row with holes is filled where that costs no row.
  const rows = Math.ceil(count / columns);
  return Math.ceil(count / rows);
}

/** The step at the right edge: the way ahead is shown, but what is known has at least half. */
export function ahead(first, last, target) {
  if (target === null || target <= last) return last;
  let room = 10;
  while (first + room < last) room *= 2;
  return Math.min(target, first + room);
}

function scaleOf(panel, drawn) {
  if (!drawn.length) return null;
  if (panel.range) return { low: panel.range[0], high: panel.range[1] };
  const careful = drawn.filter(({ plain }) => plain).map(({ raw }) => raw.values);
  const noisy = drawn.filter(({ plain }) => !plain);
  const found = [
    bounds([...careful, ...noisy.map(({ smooth }) => smooth.values)]),
    bounds(noisy.map(({ raw }) => raw.values), WILD),
  ].filter(Boolean);
  return padded({
    low: Math.min(...found.map(({ low }) => low)),
    high: Math.max(...found.map(({ high }) => high)),
  });
}

function line(pen, [x1, y1], [x2, y2], colour) {
  pen.strokeStyle = colour;
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

function path(pen, { steps, values }, place) {
  if (steps.length === 1) {
    dot(pen, ...place(steps[0], values[0]), 2, false);
    return;
  }
  pen.beginPath();
  steps.forEach((step, i) => {
    const [x, y] = place(step, values[i]);
    if (i) pen.lineTo(x, y);
    else pen.moveTo(x, y);
  });
  pen.stroke();
}

function dot(pen, x, y, radius, hollow) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  if (hollow) pen.stroke();
  else pen.fill();
}
