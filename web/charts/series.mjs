// Rows of metrics as curves: joined, smoothed, thinned, measured. Knows no page.
//
// A row is {step, <metric>: number, ...}; a series {steps: [...], values: [...]}, steps ascending.

const EMPTY = Object.freeze({ steps: Object.freeze([]), values: Object.freeze([]) });

/** The curves of one run, by metric. */
export class Curves {
  constructor(rows = []) {
    this._series = new Map();
    this._smooth = new Map();
    /** Changes with every change of what is drawn. */
    this.version = 0;
    /** The last step known; -1 before any. A step 0 holds what was measured before training. */
    this.last = -1;
    this.first = Infinity;
    this.add(rows);
  }

  /** Curves of series that are already apart. */
  static of(series) {
    const made = new Curves();
    for (const [metric, { steps, values }] of Object.entries(series)) {
      if (!steps.length) continue;
      made._series.set(metric, { steps: [...steps], values: [...values] });
      made.first = Math.min(made.first, steps[0]);
      made.last = Math.max(made.last, steps.at(-1));
    }
    made.version += 1;
    return made;
  }

  /** Joins rows, steps ascending. Steps done again replace what was known from there on. */
  add(rows) {
    if (!rows.length) return;
    if (rows[0].step <= this.last) this.cut(rows[0].step - 1);
    for (const row of rows) this._addRow(row);
    this.first = Math.min(this.first, rows[0].step);
    this.last = rows.at(-1).step;
    this._changed();
  }

  _addRow(row) {
    for (const [metric, value] of Object.entries(row)) {
      if (metric === "step" || !Number.isFinite(value)) continue;
      let known = this._series.get(metric);
      if (!known) this._series.set(metric, (known = { steps: [], values: [] }));
      known.steps.push(row.step);
      known.values.push(value);
    }
  }

  /** Forgets what comes after a step. */
  cut(last) {
    if (last >= this.last) return;
    for (const series of this._series.values()) {
      const kept = countUpTo(series.steps, last);
      series.steps.length = series.values.length = kept;
    }
    this.last = last;
    if (this.last < this.first) {
      this.first = Infinity;
      this.last = -1;
    }
    this._changed();
  }

  _changed() {
    this.version += 1;
    this._smooth.clear();
  }

  get metrics() {
    return [...this._series.keys()].filter((one) => this._series.get(one).steps.length);
  }

  /** The series of a metric as logged; empty if there is none. */
  series(metric) {
    return this._series.get(metric) ?? EMPTY;
  }

  /** As `series`, smoothed over about so many steps. */
  smooth(metric, span) {
    const raw = this.series(metric);
    if (span <= 1) return raw;
    const known = this._smooth.get(metric);
    if (known?.span === span) return known;
    const made = { steps: raw.steps, values: smoothed(raw, span), span };
    this._smooth.set(metric, made);
    return made;
  }
}

/**
 * A running mean over about `span` steps, without a bias towards the first value. Where steps are
 * missing, what came before them counts for as much less.
 */
export function smoothed({ steps, values }, span) {
  if (span <= 1) return [...values];
  const decay = 1 - 1 / span;
  let sum = 0;
  let weight = 0;
  return values.map((value, i) => {
    const kept = decay ** (i ? steps[i] - steps[i - 1] : 1);
    sum = kept * sum + (1 - kept) * value;
    weight = kept * weight + (1 - kept);
    return sum / weight;
  });
}

/** At most `most` points (4 or more), spread over the steps, with every stretch's extremes. */
export function thinned(series, most) {
  const { steps, values } = series;
  const count = steps.length;
  if (count <= most) return series;
  const stretches = Math.max(1, Math.floor((most - 2) / 2));
  const [from, width] = [steps[0], (steps[count - 1] - steps[0]) / stretches];
  const kept = { steps: [steps[0]], values: [values[0]] };
  const keep = (i) => {
    if (i <= 0 || i >= count - 1) return;
    kept.steps.push(steps[i]);
    kept.values.push(values[i]);
  };
  let [low, high, end] = [-1, -1, from + width];
  const flush = () => {
    keep(Math.min(low, high));
    if (low !== high) keep(Math.max(low, high));
  };
  for (let i = 0; i < count; i += 1) {
    if (low >= 0 && steps[i] >= end) {
      flush();
      low = high = i;
      end = from + width * (1 + Math.floor((steps[i] - from) / width));
    }
    if (low < 0 || values[i] < values[low]) low = i;
    if (high < 0 || values[i] > values[high]) high = i;
  }
  flush();
  kept.steps.push(steps[count - 1]);
  kept.values.push(values[count - 1]);
  return kept;
}

/**
 * Lowest and highest of lists of values; null if there are none.
 *
 * @param trim share of the values of each list that may lie outside at either end, so that a few
 *   wild ones do not press the others flat
 */
export function bounds(lists, trim = 0) {
  let [low, high] = [Infinity, -Infinity];
  for (const values of lists) {
    if (!values.length) continue;
    const few = trim === 0 || values.length * trim < 1;
    const sorted = few ? null : Float64Array.from(values).sort();
    const out = few ? 0 : Math.floor(values.length * trim);
    for (const value of few ? values : [sorted[out], sorted[sorted.length - 1 - out]]) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low <= high ? { low, high } : null;
}

/** Bounds with a little room around them; a constant is a line through the middle. */
export function padded({ low, high }, share = 0.06) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low <= 1e-9 * size) {
    const room = size || 1;
    return { low: low - room, high: high + room };
  }
  const room = share * (high - low);
  return { low: low - room, high: high + room };
}

/** How many of ascending steps are not after `step`. */
export function countUpTo(steps, step) {
  let [from, to] = [0, steps.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (steps[middle] <= step) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** The place of the step nearest to `step`, the earlier of two; -1 if there are none. */
export function nearest(steps, step) {
  const after = countUpTo(steps, step);
  if (after === 0) return steps.length ? 0 : -1;
  if (after === steps.length) return after - 1;
  return steps[after] - step < step - steps[after - 1] ? after : after - 1;
}

/** The value at a step or the last one before it; undefined if there is none. */
export function valueAt({ steps, values }, step) {
  return values[countUpTo(steps, step) - 1];
}

/** Round numbers within bounds, about `count` of them. */
export function ticks(low, high, count) {
  if (!(high - low > 1e-12 * Math.max(Math.abs(low), Math.abs(high)))) return [];
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i += 1) {
    found.push(Number((i * unit).toPrecision(12)));
  }
  return found;
}

/** A tick's number with the digits that tell it from its neighbours. */
export function tickNumber(value, all) {
  const unit = all.length > 1 ? all[1] - all[0] : Math.abs(value);
  const size = Math.max(...all.map(Math.abs));
  if (value === 0 || size >= 1e5 || size < 1e-3) return shortNumber(value);
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(unit) + 1e-9)));
}

/** A number as short as it can be read: 0.693, 1250, 2.1e-5. */
export function shortNumber(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) {
    return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(digits)));
}

/** Seconds as a person says them: 45 s, 3 min, 1 h 20 min, 2 d 3 h. */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
