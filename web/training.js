// Training in ComfyUI's page: the chart in each Train Steps node, and warnings in a corner.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ChartView } from "./charts/chart_view.mjs";
import { Feed, finished, readRows, readWarnings } from "./charts/feed.mjs";
import { pictureOf, readPicture } from "./charts/picture.mjs";
import { Curves } from "./charts/series.mjs";
import { chain, edit, nodeOf, outputsOf, passWheel, remount } from "./graph.mjs";
import { loadStyles } from "./page.mjs";

const NODE = "DPOTrainSteps";
const NAME = "chart";
const FIRST_SIZE = [440, 560];
/** What the workflow keeps of a chart; the prompt, and with it the host's cache, knows neither. */
const [PICTURE, VIEW] = ["dpo_chart", "dpo_chart_view"];
const TOAST_SECONDS = 20;
const MOST_ROWS = 5000;
/** Without an event for so long the server is asked: another tab may be the one that is told. */
const SILENT_SECONDS = 3;
const MOST_KEPT = 12;
/** What a node says goes to this widget of the host's, in some versions only while it runs. */
const HOST_TEXT = "$$node-text-preview";
/** The last words of a training come after its last event. */
const KEEP_MS = 400;

/** The charts on the page, by node. */
const charts = new Map();
/** Trainings that this page has heard of, by workflow and node. */
const trainings = new Map();

const seconds = () => performance.now() / 1000;

async function get(path) {
  try {
    const reply = await api.fetchApi(path, { cache: "no-store" });
    return reply.ok ? await reply.json() : null;
  } catch {
    return null; // the server is away
  }
}

/** Rows of a run after a step; null if it is not on this machine. */
async function rowsOf(run, after = -1) {
  const path = `/dpo/runs/${encodeURIComponent(run)}/metrics?after=${after}&most=${MOST_ROWS}`;
  const body = await get(path);
  return body && readRows(body.rows);
}

const whole = new Map();

/** All of a run's curves up to a step; null if it is not on this machine. */
async function curvesOf(run, until = Infinity) {
  let rows = whole.get(run);
  if (!rows || (until < Infinity && rows.at(-1).step < until)) {
    rows = await rowsOf(run);
    if (!rows?.length) return null;
    whole.delete(run);
    whole.set(run, rows);
    if (whole.size > MOST_KEPT) whole.delete(whole.keys().next().value);
  }
  return new Curves(rows.filter(({ step }) => step <= until));
}

/** The chart of one node. */
class NodeChart {
  constructor(node) {
    this.node = node;
    this.shown = null;
    this.over = [];
    this.view = new ChartView({
      runs: () => this._runs(),
      viewChanged: (view) => this._keep(VIEW, { ...this._chosen(), ...view }),
      overChanged: (over) => {
        this._keep(VIEW, { ...this._chosen(), over });
        this._layOver(over);
      },
      resized: () => app.canvas?.setDirty?.(true, true),
    });
    const { element } = this.view;
    element.dataset.dpoW = NAME;
    this.widget = node.addDOMWidget(NAME, "dpo_chart", element, {
      getMinHeight: () => this.view.leastHeight,
      hideOnZoom: false,
      serialize: false, // not in the prompt
    });
    this.widget.serialize = false; // nor among the values of the workflow, which are told by place
    element.addEventListener("wheel", (event) => this._passWheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => {
      if (event.button === 0) event.stopPropagation();
    });
  }

  _passWheel(event) {
    if (!event.target.closest?.(".dpo-chart-warnings")) passWheel(event);
  }

  _chosen() {
    const chosen = this.node.properties?.[VIEW];
    return chosen && typeof chosen === "object" ? chosen : {};
  }

  _keep(name, value) {
    if (JSON.stringify(this.node.properties[name]) === JSON.stringify(value)) return;
    edit(() => (this.node.properties[name] = value));
  }

  async _runs() {
    const body = await get("/dpo/runs");
    const runs = Array.isArray(body?.runs) ? body.runs : [];
    return runs.map((run) => ({ id: run.id, title: titleOf(run) }));
  }

  // Once for all that a workflow sets on the node.
  showKnownSoon() {
    if (this._soon) return;
    this._soon = true;
    queueMicrotask(() => {
      this._soon = false;
      this.showKnown();
    });
  }

  /** What is known of this node: a training that runs, the last run's, or the workflow's. */
  showKnown() {
    const chosen = this._chosen();
    const picture = readPicture(this.node.properties?.[PICTURE]);
    this.view.setView(chosen);
    this._layOver(readOver(chosen.over), picture?.over);
    const training = trainingOf(this.node);
    const outputs = outputsOf(this.node);
    const [last] = outputs?.dpo_chart ?? [];
    if (training) this.follow(training);
    else if (last && !(picture?.run === last.run && picture.step === last.step)) this.arrive(last, outputs.text ?? []);
    else if (picture) this._open(picture);
    else this._show(null);
  }

  /** A training of this node, as it is now. */
  follow(training) {
    const { feed } = training;
    this._show({
      run: feed.run,
      step: feed.step,
      target: feed.target,
      status: feed.status(seconds()),
      share: feed.share,
      runs: feed.runs,
      curves: feed.curves,
      warnings: feed.warnings,
      text: feed.runs ? "" : training.text,
    });
    if (feed.runs || training.kept || feed.curves.last < 0) return;
    training.kept = true;
    this._keepSoon();
  }

  /** What the node has said in the end is shown here where the host does not show it any more. */
  placeText() {
    const told = this.node.widgets?.some(({ name, value }) => name === HOST_TEXT && value);
    this.view.setText(told ? "" : (this.shown?.text ?? ""));
  }

  tick(feed) {
    this.view.setStatus({ status: feed.status(seconds()), share: feed.share, runs: feed.runs });
  }

  /**
   * The result of a run of this node: {run, step, warnings}, and what it said.
   *
   * @param keep whether the workflow keeps it; not where it only comes back, as after an undo
   */
  async arrive(result, [text = ""], keep = false) {
    if (typeof result?.run !== "string" || !Number.isFinite(result.step)) return;
    const training = trainingOf(this.node, true);
    const { run, step } = result;
    const { feed } = training ?? {};
    if (training) {
      training.kept = true;
      feed.end("finished");
    }
    const heard = feed?.run === run && feed.curves.last === step && !feed.incomplete;
    const status = heard ? feed.status(seconds()) : finished(step);
    this._asked = run;
    const curves = heard ? feed.curves : await curvesOf(run, step);
    if (!curves || this._asked !== run || trainingOf(this.node)?.feed.runs) return;
    const warnings = readWarnings(result.warnings);
    this._show({ run, step, status, curves, warnings, text: String(text) });
    if (keep) this._keepPicture();
  }

  /** The picture of a workflow, and the whole of it where the run is on this machine. */
  async _open(picture) {
    this._show(picture);
    const curves = await curvesOf(picture.run, picture.step);
    if (curves?.last === picture.step && this.shown === picture) {
      this._show({ ...picture, curves });
    }
  }

  _show(shown) {
    this.shown = shown;
    this.view.show(shown, this.over);
    this.placeText();
  }

  _keepSoon() {
    clearTimeout(this._keeping);
    this._keeping = setTimeout(() => this._keepPicture(), KEEP_MS);
  }

  _keepPicture() {
    clearTimeout(this._keeping);
    if (!this.shown || this.shown.runs || !this.node.graph) return;
    this._keep(PICTURE, pictureOf(this.shown, this.over));
  }

  /** Lays runs over this one: from this machine, else as the workflow has them. */
  async _layOver(over, kept = []) {
    this.view.setOver(over);
    this._wanted = over;
    const found = await Promise.all(
      over.map(async ({ run, title }) => {
        const curves = (await curvesOf(run)) ?? kept.find((one) => one.run === run)?.curves;
        return curves && { run, title, curves };
      }),
    );
    if (this._wanted !== over) return;
    const before = this.over.map(({ run }) => run).join();
    this.over = found.filter(Boolean);
    this._show(this.shown);
    const changed = before !== this.over.map(({ run }) => run).join();
    if (changed && this.shown && !this.shown.runs && this.node.properties[PICTURE]) {
      this._keepPicture();
    }
  }

  remove() {
    charts.delete(this.node);
    this.view.dispose();
  }
}

function readOver(over) {
  if (!Array.isArray(over)) return [];
  return over.filter((one) => typeof one?.run === "string" && typeof one.title === "string");
}

function titleOf({ id, title, step, changed }) {
  const parts = [typeof title === "string" && title ? title : `run ${String(id).slice(0, 8)}`];
  if (Number.isFinite(step)) parts.push(step === 1 ? "1 step" : `${step} steps`);
  if (Number.isFinite(changed)) parts.push(when(new Date(1000 * changed)));
  return parts.join(", ");
}

function when(date) {
  const day = date.toDateString() === new Date().toDateString() ? {} : { dateStyle: "short" };
  return date.toLocaleString(undefined, { ...day, timeStyle: "short" });
}

// Trainings

function isShown({ workflow }) {
  return !workflow || workflow === app.rootGraph?.id;
}

/**
 * The training of a node that runs, was cut short, or is not in the workflow yet; with `any` also
 * one that the node's output tells of.
 */
function trainingOf(node, any = false) {
  return [...trainings.values()]
    .reverse()
    .find(
      (one) =>
        isShown(one) &&
        nodeOf(one.node) === node &&
        (any || one.feed.ended !== "finished" || !one.kept),
    );
}

function chartOf(training) {
  return isShown(training) ? charts.get(nodeOf(training.node)) : undefined;
}

/** What is told of a training: an event, or the server's answer. */
async function hear(told) {
  const { node, workflow } = told;
  const key = JSON.stringify([workflow, node]);
  const training = trainings.get(key) ?? { node, workflow, feed: new Feed() };
  trainings.delete(key);
  trainings.set(key, training);
  if (trainings.size > MOST_KEPT) trainings.delete(trainings.keys().next().value);
  training.heardAt = seconds();
  training.kept = false;
  training.text = "";
  const { feed } = training;
  const missing = feed.take(told, seconds());
  whole.delete(feed.run);
  if (missing !== null) {
    const { run } = feed;
    const rows = await rowsOf(run, missing);
    if (feed.run !== run) return;
    feed.fill(rows);
  }
  chartOf(training)?.follow(training);
  watch();
}

/** What a node says after its training has ended: where it is kept, and how to go on. */
function hearText({ nodeId, text }) {
  for (const training of trainings.values()) {
    const { ended } = training.feed;
    if (training.node !== String(nodeId) || !ended || ended === "finished") continue;
    training.text = String(text);
    training.kept = false;
    chartOf(training)?.follow(training);
  }
}

function placeTexts() {
  for (const one of charts.values()) one.placeText();
}

let watching = null;

/** While something trains: counts the time left down, and asks where nothing is heard. */
function watch() {
  const running = [...trainings.values()].filter(({ feed }) => feed.runs);
  if (!running.length) {
    clearInterval(watching);
    watching = null;
  } else watching ??= setInterval(tick, 1000);
}

function tick() {
  watch();
  for (const training of trainings.values()) {
    if (!training.feed.runs) continue;
    chartOf(training)?.tick(training.feed);
    if (seconds() - training.heardAt > SILENT_SECONDS) ask();
  }
}

let asking = false;

/** Asks the server what trains; a reloaded page knows nothing of it. */
async function ask() {
  if (asking) return;
  asking = true;
  try {
    const body = await get("/dpo/training");
    if (!Array.isArray(body?.training)) return;
    for (const told of body.training) await hear(told);
    const now = new Set(body.training.map(({ prompt_id, node }) => `${prompt_id} ${node}`));
    for (const training of trainings.values()) {
      const { feed } = training;
      if (feed.runs && !now.has(`${feed.promptId} ${training.node}`)) await endUnheard(training);
    }
  } finally {
    asking = false;
  }
}

/** The end of a training that nobody told this page of. */
async function endUnheard(training) {
  const { feed } = training;
  const rows = await rowsOf(feed.run, feed.curves.last);
  if (rows?.length) feed.take({ ...asTold(feed), step: rows.at(-1).step, rows }, seconds());
  feed.end(feed.step < feed.target ? "gone" : "finished");
  chartOf(training)?.follow(training);
}

function asTold({ run, promptId, target, warnings }) {
  return { run, prompt_id: promptId, target, warnings };
}

app.registerExtension({
  name: "dpo.training",

  init() {
    loadStyles("./charts/charts.css");
  },

  setup() {
    api.addEventListener("dpo.metrics", ({ detail }) => hear(detail));
    api.addEventListener("dpo.warning", ({ detail }) => {
      app.extensionManager.toast.add({
        severity: detail.serious ? "error" : "warn",
        summary: "Training (DPO)",
        detail: detail.text,
        // What may do harm stays until it is read.
        ...(detail.serious ? {} : { life: 1000 * TOAST_SECONDS }),
      });
    });
    api.addEventListener("progress_text", ({ detail }) => hearText(detail));
    for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
      for (const wait of [200, 1500]) {
        api.addEventListener(name, () => setTimeout(placeTexts, wait));
      }
    }
    api.addEventListener("reconnected", ask);
  },

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const made = new NodeChart(node);
    charts.set(node, made);
    const [width, height] = node.size;
    node.setSize([Math.max(width, FIRST_SIZE[0]), Math.max(height, FIRST_SIZE[1])]);
    chain(node, "onExecuted", (output) =>
      made.arrive(output?.dpo_chart?.[0], output?.text ?? [], true),
    );
    chain(node, "onConfigure", () => {
      made.showKnownSoon();
      requestAnimationFrame(() =>
        requestAnimationFrame(() => remount(node, made.view.element)),
      );
    });
    chain(node, "onRemoved", () => made.remove());
    made.showKnownSoon();
  },

  afterConfigureGraph: ask,

  onNodeOutputsUpdated() {
    for (const one of charts.values()) {
      if (outputsOf(one.node)?.dpo_chart) one.showKnown();
    }
  },
});
