// One training as its events tell it: rows joined, gaps noticed, time left. Knows no page.

import { Curves, duration } from "./series.mjs";

/** Rows whose gap was not filled are drawn without it after so many batches have waited. */
const MOST_WAITING = 500;

export class Feed {
  constructor() {
    this.curves = new Curves();
    this.run = "";
    this.promptId = "";
    this.step = -1;
    this.target = 0;
    this.warnings = [];
    /** "" while it trains, then finished, stopped, failed, or gone where nobody told how. */
    this.ended = "";
    /** Whether some rows are known to be missing. */
    this.incomplete = false;
    this._next = 0;
    this._waiting = null;
    this._left = null;
    this._toldAt = 0;
    this._began = -1;
  }

  /**
   * Takes a `dpo.metrics` event, or what the server says of a training that runs, without rows.
   *
   * @param now seconds of a clock
   * @returns {number | null} the step after which rows are missing: ask for them, then `fill`
   */
  take(event, now) {
    const rows = readRows(event.rows);
    if (event.run !== this.run) this._begin(event);
    if (event.prompt_id !== this.promptId) this._beginPrompt(event);
    this.step = event.step;
    this.target = event.target;
    this._left = event.seconds_left ?? null;
    this._toldAt = now;
    this.warnings = readWarnings(event.warnings);
    this.ended = event.ended ?? "";
    const known = Math.max(0, this.curves.last);
    const jumps = (rows.length ? rows[0].step : event.step + 1) > known + 1;
    const lost = event.first !== undefined && event.first !== this._next;
    if (event.first !== undefined) this._next = event.first + rows.length;
    if (this._waiting) {
      if (this._waiting.length < MOST_WAITING) this._waiting.push(rows);
      return null;
    }
    if (!jumps && !lost) {
      this.curves.add(rows);
      return null;
    }
    this._waiting = [rows];
    this.incomplete = true;
    return this.curves.last;
  }

  _begin(event) {
    this.curves = new Curves();
    this.run = event.run;
    this.incomplete = false;
    this._waiting = null;
  }

  _beginPrompt(event) {
    this.promptId = event.prompt_id;
    this._next = 0;
    this._began = event.step;
  }

  /** Takes the rows that were missing; null if they could not be had. */
  fill(rows) {
    const waiting = this._waiting ?? [];
    this._waiting = null;
    if (rows) {
      this.incomplete = false;
      // Beyond where it stands there may be what another training of this run did before.
      this.curves.add(readRows(rows).filter(({ step }) => step <= this.step));
    }
    for (const batch of waiting) this.curves.add(batch);
  }

  /** It has ended, and the event that would say so did not come. */
  end(how) {
    if (!this.ended) this.ended = how;
  }

  get runs() {
    return this.run !== "" && this.ended === "";
  }

  /** Of this training, from 0 to 1. */
  get share() {
    const whole = this.target - this._began;
    return whole > 0 ? Math.min(1, Math.max(0, (this.step - this._began) / whole)) : 0;
  }

  /** Where it stands, in words. */
  status(now) {
    const of = `step ${this.step} of ${this.target}`;
    if (this.ended === "stopped") return `Stopped at ${of}`;
    if (this.ended === "gone") return `Ended at ${of}`;
    if (this.ended === "failed") return `Ended by an error at ${of}`;
    if (this.ended) return finished(this.step, this.target);
    if (this.step <= this._began && this._left === null) return "Getting ready";
    if (this._left === null) return `Step ${this.step} of ${this.target}`;
    const left = Math.max(1, this._left - (now - this._toldAt));
    return `Step ${this.step} of ${this.target}, ${duration(left)} left`;
  }
}

/** What is said of a training that has ended by itself. */
export function finished(step, target = step) {
  if (step < target) return `Stopped early at step ${step} of ${target}`;
  return step === 1 ? "1 step done" : `${step} steps done`;
}

/** Rows from outside, those that are none left out. */
export function readRows(rows) {
  if (!Array.isArray(rows)) return [];
  const found = [];
  for (const row of rows) {
    if (Number.isFinite(row?.step) && row.step > (found.at(-1)?.step ?? -1)) found.push(row);
  }
  return found;
}

export function readWarnings(warnings) {
  if (!Array.isArray(warnings)) return [];
  return warnings
    .filter((one) => Number.isFinite(one?.step) && typeof one.text === "string")
    .map(({ step, text, serious }) => ({ step, text, serious: serious === true }));
}
