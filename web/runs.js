// The Runs panel in ComfyUI: a tab of the sidebar, and what it does to the graph.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addSidebarTab, loadStyles } from "./page.mjs";
import { httpPort } from "./ranking/http_port.mjs";
import { planSettings } from "./runs/settings_plan.mjs";
import { RunsPanel } from "./runs/view/runs_panel.mjs";

const TRAINER = "DPOTrainer";
const ENDS = ["execution_start", "execution_success", "execution_error", "execution_interrupted"];

const port = {
  ...httpPort((path, options) => api.fetchApi(path, options)),
  imageUrl: (url) => api.apiURL(url),
  now: () => Date.now() / 1000,
  host: () => document.body,
  loadSettings,
  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyOldWay(text);
    }
  },
};

// Pages that are not from this machine and not over https have no clipboard of their own.
function copyOldWay(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.style.cssText = "position:fixed;opacity:0";
  document.body.append(field);
  const before = document.activeElement;
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus?.();
  return done;
}

// Settings into the graph

/** Puts a run's settings into the chosen trainer and the nodes before it, as one change. */
function loadSettings(run) {
  const { trainer, problem } = chosenTrainer();
  if (!trainer) return { summary: problem, lines: [] };
  const { changes, missing } = planSettings(run, described(trainer), usualOf);
  if (changes.length) {
    app.canvas.emitBeforeChange?.();
    try {
      for (const { node, widget, value } of changes) setWidget(node.made, widget, value);
    } finally {
      app.canvas.emitAfterChange?.();
    }
    app.canvas.setDirty(true, true);
  }
  const title = trainer.title || "Trainer";
  const count = `${changes.length} setting${changes.length === 1 ? "" : "s"}`;
  const done = changes.length
    ? `${count} changed in ${title} and the nodes connected to it. Undo takes them back at once.`
    : missing.length
      ? `Nothing was changed in ${title}.`
      : `${title} has these settings already.`;
  return {
    summary: missing.length ? `${done} This could not be set:` : done,
    lines: missing,
  };
}

/** The selected trainer, else the only one of the graph on display. */
function chosenTrainer() {
  const graph = app.canvas.graph ?? app.rootGraph;
  const all = graph.nodes.filter(({ type }) => type === TRAINER);
  const selected = all.filter((node) => app.canvas.selectedItems?.has(node) || node.selected);
  if (selected.length === 1) return { trainer: selected[0] };
  if (selected.length > 1) return { problem: "Select one Trainer (DPO) only, then try again." };
  if (all.length === 1) return { trainer: all[0] };
  return {
    problem: all.length
      ? "There are several Trainer (DPO) nodes: select one, then try again."
      : "There is no Trainer (DPO) here: add one or open a workflow with one, then try again.",
  };
}

/** A node as `planSettings` takes it; `made` is the page's own. */
function described(node, depth = 0) {
  const widgets = {};
  for (const widget of node.widgets ?? []) {
    const slot = node.inputs?.find((one) => one.widget?.name === widget.name);
    const { values } = widget.options ?? {};
    widgets[widget.name] = {
      value: widget.value,
      options: Array.isArray(values) ? values : undefined,
      linked: slot?.link != null,
    };
  }
  const inputs = {};
  for (const [at, slot] of (node.inputs ?? []).entries()) {
    if (slot.widget) continue;
    const before = depth < 20 ? source(node, at) : null;
    inputs[slot.name] = before && described(before, depth + 1);
  }
  return { id: node.id, type: node.type, title: node.title, widgets, inputs, made: node };
}

/** The node that an input comes from, past reroutes. */
function source(node, at) {
  let [found, hops] = [node.getInputNode(at), 0];
  while (found?.type === "Reroute" && hops++ < 100) found = found.getInputNode(0);
  return found ?? null;
}

function usualOf(type) {
  const inputs = LiteGraph.registered_node_types[type]?.nodeData?.inputs ?? {};
  return Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.default]));
}

function setWidget(node, name, value) {
  const widget = node.widgets.find((one) => one.name === name);
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.onWidgetChanged?.(name, value, undefined, widget);
}

app.registerExtension({
  name: "dpo.runs",

  init() {
    loadStyles("./charts/charts.css", "./runs/view/runs.css");
  },

  setup() {
    const panel = new RunsPanel(port);
    const tab = {
      id: "dpo-runs",
      icon: "pi pi-chart-line",
      title: "DPO runs",
      tooltip: "DPO runs: trainings with their curves, settings and LoRAs",
    };
    addSidebarTab(tab, panel);
    api.addEventListener("dpo.metrics", ({ detail }) => panel.follow(detail));
    for (const name of [...ENDS, "reconnected"]) {
      api.addEventListener(name, () => panel.changed());
    }
  },
});
