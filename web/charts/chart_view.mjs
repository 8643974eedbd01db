// The chart of one node: where training stands, its curves, warnings, and what a person may set.
// Knows no host: what is outside comes through the port.

import { el, setHidden, setText } from "../element.mjs";
import { PANELS, SPANS, readView } from "./panels.mjs";
import { Plot } from "./plot.mjs";

const MOST_OVER = 3;
const LEAST_PLOT = 180;
const AROUND = 26;
const NOTHING = "Run, and the curves appear here as it trains.";

let charts = 0;

/**
 * The port: `runs()` gives a promise of [{id, title}], what may be laid over; `viewChanged(view)`
 * and `overChanged([{run, title}])` hear of the person's choices, `resized()` of another
 * `leastHeight`.
 */
export class ChartView {
  constructor(port) {
    charts += 1;
    this._port = port;
    this._view = readView(null);
    this._over = [];
    this.plot = new Plot();
    this._buildHead();
    this._buildSettings();
    this._warnings = el("ul", { className: "dpo-chart-warnings" });
    this._warnings.setAttribute("aria-label", "Warnings");
    this._text = el("p", { className: "dpo-chart-text", hidden: true, tabIndex: 0 });
    // Only what is rare: steps told aloud several times a second would be of no use.
    this._aloud = el("p", { className: "dpo-plot-summary", role: "status" });
    this.element = el(
      "div",
      { className: "dpo dpo-chart", role: "region" },
      this._head,
      this._bar,
      this._settings,
      this.plot.element,
      this._warnings,
      this._text,
      this._aloud,
    );
    this.element.setAttribute("aria-label", "Training chart");
    this.show(null);
  }

  _buildHead() {
    this._status = el("span", { className: "dpo-chart-status" });
    this._fold = el("button", {
      type: "button",
      className: "dpo-chart-button",
      textContent: "Curves",
      title: "Choose curves, smoothing, and runs to compare with",
      onclick: () => this._toggle(),
    });
    this._fold.setAttribute("aria-expanded", "false");
    this._head = el("div", { className: "dpo-chart-head" }, this._status, this._fold);
    this._done = el("div", { className: "dpo-chart-done" });
    this._bar = el("div", { className: "dpo-chart-bar", role: "progressbar" }, this._done);
    this._bar.setAttribute("aria-label", "Training");
    this._bar.setAttribute("aria-valuemin", "0");
    this._bar.setAttribute("aria-valuemax", "100");
  }

  _buildSettings() {
    this._boxes = PANELS.map((panel) => {
      const box = el("input", { type: "checkbox", onchange: () => this._choose() });
      box.dataset.panel = panel.id;
      return el("label", { title: panel.hint }, box, panel.title);
    });
    this._span = el("input", {
      type: "range", min: 0, max: SPANS.length - 1, step: 1, oninput: () => this._choose(),
    });
    this._span.id = `dpo-chart-span-${charts}`;
    this._spanText = el("span", { className: "dpo-chart-value" });
    const smoothing = el("label", { htmlFor: this._span.id, textContent: "Smoothing" });
    smoothing.title = "A running mean. What was logged stays visible behind it.";
    this._compare = el("select", {
      onchange: () => this._add(),
      onpointerdown: () => this._list(),
      onfocus: () => this._list(),
    });
    this._compare.setAttribute("aria-label", "Compare with another run");
    this._chips = el("span", { className: "dpo-chart-chips" });
    this._settings = el(
      "div",
      { className: "dpo-chart-settings", hidden: true, onkeydown: stop, onkeyup: stop },
      el("div", { className: "dpo-chart-panels", role: "group", ariaLabel: "Curves" }, ...this._boxes),
      el("div", { className: "dpo-chart-row" }, smoothing, this._span, this._spanText),
      el("div", { className: "dpo-chart-row" }, this._compare, this._chips),
    );
    this._fillList([]);
  }

  // What the person does

  _toggle() {
    const open = this._settings.hidden;
    setHidden(this._settings, !open);
    this._fold.setAttribute("aria-expanded", String(open));
    if (open) this._list();
    this._port.resized();
  }

  /** What the chart needs, in pixels of a page that is not zoomed. */
  get leastHeight() {
    const parts = [this._head, this._bar, this._settings, this._warnings, this._text];
    return parts.reduce((sum, part) => sum + part.offsetHeight, LEAST_PLOT + AROUND);
  }

  _choose() {
    const chosen = this._boxes.map((label) => label.firstChild).filter(({ checked }) => checked);
    const panels = chosen.map(({ dataset }) => dataset.panel);
    this.setView({ panels, span: SPANS[Number(this._span.value)] });
    this._port.viewChanged(this._view);
  }

  async _list() {
    if (this._listing) return;
    this._listing = true;
    try {
      this._fillList(await this._port.runs());
    } finally {
      this._listing = false;
    }
  }

  _fillList(runs) {
    const taken = new Set([this._run, ...this._over.map(({ run }) => run)]);
    const free = runs.filter(({ id }) => !taken.has(id));
    const known = [...this._compare.options].map(({ value }) => value).slice(1);
    if (this._compare.options.length && known.join() === free.map(({ id }) => id).join()) return;
    const first = free.length || !runs.length ? "Compare with ..." : "No other run to compare with";
    this._compare.replaceChildren(
      el("option", { value: "", textContent: first }),
      ...free.map(({ id, title }) => el("option", { value: id, textContent: title })),
    );
  }

  _add() {
    const chosen = this._compare.selectedOptions[0];
    if (!chosen?.value) return;
    const one = { run: chosen.value, title: chosen.textContent };
    this.setOver([...this._over, one].slice(-MOST_OVER));
    this._port.overChanged(this._over);
  }

  _remove(run) {
    this.setOver(this._over.filter((one) => one.run !== run));
    this._port.overChanged(this._over);
  }

  // What is shown

  setView(view) {
    this._view = readView(view);
    for (const label of this._boxes) {
      const box = label.firstChild;
      box.checked = this._view.panels.includes(box.dataset.panel);
      // The last one stays: a chart of nothing helps nobody.
      box.disabled = box.checked && this._view.panels.length === 1;
    }
    const { span } = this._view;
    this._span.value = SPANS.indexOf(span);
    const text = span === 1 ? "off" : `over ${span} steps`;
    setText(this._spanText, text);
    this._span.setAttribute("aria-valuetext", text);
    this.plot.setView(this._view);
  }

  /** Runs to lay over: [{run, title}]. */
  setOver(over) {
    this._over = over;
    queueMicrotask(() => this._port.resized());
    this._chips.replaceChildren(
      ...over.map(({ run, title }) => {
        const chip = el("button", {
          type: "button",
          className: "dpo-chart-button",
          textContent: `${title} ×`,
          onclick: () => this._remove(run),
        });
        chip.setAttribute("aria-label", `Do not compare with ${title} any more`);
        return chip;
      }),
    );
    this._compare.replaceChildren();
    this._fillList([]);
  }

  /**
   * @param {null | {run, status, share, runs, target, curves, warnings}} shown `share`, from 0 to
   *   1, while training `runs`
   * @param over the curves laid over it: [{title, curves}]
   */
  show(shown, over = []) {
    this._run = shown?.run;
    this.setStatus(shown);
    const own = shown ? [{ name: "this run", curves: shown.curves, marks: shown.warnings }] : [];
    const others = over.map(({ title, curves }) => ({ name: title, curves }));
    const empty = shown?.runs ? "The first step is on its way." : NOTHING;
    this.plot.show([...own, ...others], { target: shown?.runs ? shown.target : null, empty });
    this._showWarnings(shown?.warnings ?? []);
  }

  setStatus(shown) {
    setText(this._status, shown?.status ?? "Not trained yet");
    setHidden(this._bar, !shown?.runs);
    if (shown?.runs) {
      this._done.style.width = `${100 * shown.share}%`;
      this._bar.setAttribute("aria-valuenow", Math.round(100 * shown.share));
    } else if (shown && this._ran) this._say(shown.status);
    this._ran = Boolean(shown?.runs);
  }

  _showWarnings(warnings) {
    const text = JSON.stringify(warnings);
    if (text === this._warned) return;
    if (warnings.length && this._ran) this._say(`Warning: ${warnings.at(-1).text}`);
    this._warned = text;
    queueMicrotask(() => this._port.resized());
    setHidden(this._warnings, !warnings.length);
    this._warnings.replaceChildren(
      ...[...warnings].reverse().map(({ step, text: said, serious }) =>
        el(
          "li",
          { className: serious ? "dpo-chart-serious" : "" },
          el("b", { textContent: `Step ${step}` }),
          ` ${said}`,
        ),
      ),
    );
  }

  /** What the node has said in the end, where nobody else shows it. */
  setText(text) {
    if (this._text.textContent === text) return;
    setText(this._text, text);
    setHidden(this._text, !text);
    this._port.resized();
  }

  _say(text) {
    setText(this._aloud, text);
  }

  dispose() {
    this.plot.dispose();
  }
}

/** Keys that a field takes are not the page's shortcuts. */
function stop(event) {
  event.stopPropagation();
}
