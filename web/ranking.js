// The ranking widget in ComfyUI: DPO_RANKING inputs, and what runs, reloads and events mean to them.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { chain, edit, nodeOf, outputsOf, passWheel, remount } from "./graph.mjs";
import { loadStyles } from "./page.mjs";
import { httpPort, newId } from "./ranking/http_port.mjs";
import { RankingWidget } from "./ranking/view/ranking_widget.mjs";

const TYPE = "DPO_RANKING";
const LEAST_HEIGHT = 360;
const FIRST_SIZE = [440, 720];
/** The set on display, where the workflow keeps it: the prompt does not change with it. */
const SHOWN = "dpo_set";

/** What is on the page, by node. */
const rankings = new Map();

const http = httpPort((path, options) => api.fetchApi(path, options));

/** One DPO_RANKING input of a node. */
class NodeRanking {
  constructor(node, name) {
    this.node = node;
    this.name = name;
    this.value = {};
    this.ranking = new RankingWidget(this._port(), newId);
    const { element } = this.ranking;
    element.dataset.dpoW = name;
    this.widget = node.addDOMWidget(name, "dpo_ranking", element, {
      getValue: () => this.value,
      setValue: (value) => this._restore(value),
      getMinHeight: () => LEAST_HEIGHT,
      hideOnZoom: false,
    });
    this.widget.serializeValue = () => ofUser(this.value);
    element.addEventListener("wheel", (event) => this._passWheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this._press(event));
    element.firstElementChild.addEventListener("click", (event) => this._click(event));
    this._follow("mode", (mode) => this.ranking.board.setMode(mode));
    this._follow("pairs_per_group", (n) => this.ranking.board.setPairsPerGroup(Number(n)));
  }

  _port() {
    return {
      ...http,
      imageUrl: (url) => api.apiURL(url),
      shown: (reference) => this._edit(() => (this.node.properties[SHOWN] = { ...reference })),
      valueChanged: (value) => this._edit(() => (this.widget.value = value)),
    };
  }

  _edit(change) {
    edit(() => {
      this._editing = true;
      try {
        change();
      } finally {
        this._editing = false;
      }
    });
  }

  /** A value from a workflow file, undo, or a paste; or our own. */
  _restore(value) {
    this.value = value && typeof value === "object" && !Array.isArray(value) ? value : {};
    if (!this._editing) this.showKnownSoon();
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

  /** What this node had on display: from the last run, else the workflow. */
  showKnown() {
    const [fresh] = outputsOf(this.node)?.dpo_set ?? [];
    const known = fresh ?? this.node.properties?.[SHOWN] ?? this.value;
    this.readSettings();
    if (isReference(known)) this.ranking.board.show(known);
    else this.ranking.board.clear();
  }

  /** Images of a run. */
  arrive(reference) {
    this.readSettings();
    if (isReference(reference)) this.ranking.arrive(reference);
  }

  setWaiting(waiting) {
    this.ranking.board.setWaiting(waiting);
  }

  _follow(name, take) {
    const widget = this.node.widgets?.find((one) => one.name === name);
    if (!widget) return;
    const before = widget.callback;
    widget.callback = (...args) => {
      before?.apply(widget, args);
      take(widget.value);
    };
    take(widget.value);
  }

  /** Not all that changes the node's other widgets calls them. */
  readSettings() {
    const valueOf = (name) => this.node.widgets?.find((one) => one.name === name)?.value;
    this.ranking.board.setMode(valueOf("mode"));
    this.ranking.board.setPairsPerGroup(Number(valueOf("pairs_per_group")));
  }

  _passWheel(event) {
    const grid = event.target.closest?.(".dpo-grid");
    const scrolls = grid && grid.scrollHeight > grid.clientHeight + 1;
    if (scrolls && grid.contains(document.activeElement) && !event.ctrlKey) return;
    passWheel(event);
  }

  _press(event) {
    if (event.button === 0) event.stopPropagation();
  }

  // The classic canvas selects the node of each click and then draws the whole graph again: once is
  // enough.
  _click(event) {
    const selected = app.canvas?.selectedItems;
    if (selected?.size === 1 && selected.has(this.node)) event.stopPropagation();
  }

  remove() {
    rankings.delete(this.node);
    this.ranking.dispose();
  }
}

/** A node's value as a prompt takes it: the server knows users by requests, but not by prompts. */
function ofUser(value) {
  return api.user && api.user !== "default" ? { ...value, user: api.user } : value;
}

function isReference(value) {
  return typeof value?.session === "string" && typeof value?.set_id === "string";
}

function rankingAt(executionId) {
  return rankings.get(nodeOf(executionId));
}

async function showWaiting() {
  const { status, body } = await http.get("/dpo/waiting");
  if (status !== 200) return;
  for (const waiting of body.waiting) {
    const found = rankingAt(waiting.node);
    if (!found) continue;
    found.arrive(waiting);
    found.setWaiting(waiting);
  }
}

function endWaiting(promptId) {
  for (const one of rankings.values()) {
    if (one.ranking.board.waiting?.prompt_id === promptId) one.setWaiting(null);
  }
}

app.registerExtension({
  name: "dpo.ranking",

  init() {
    loadStyles("./ranking/ranking.css");
  },

  setup() {
    api.addEventListener("dpo.set", ({ detail }) => {
      const found = rankingAt(detail.node);
      found?.arrive(detail);
      if (detail.wait) found?.setWaiting(detail);
    });
    for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(name, ({ detail }) => endWaiting(detail.prompt_id));
    }
    api.addEventListener("reconnected", () => {
      for (const one of rankings.values()) one.ranking.board.retry();
    });
  },

  getCustomWidgets() {
    return {
      [TYPE](node, name) {
        const made = new NodeRanking(node, name);
        rankings.set(node, made);
        return { widget: made.widget };
      },
    };
  },

  nodeCreated(node) {
    const made = rankings.get(node);
    if (!made) return;
    made.readSettings();
    const [width, height] = node.size;
    node.setSize([Math.max(width, FIRST_SIZE[0]), Math.max(height, FIRST_SIZE[1])]);
    chain(node, "onExecuted", (output) => {
      made.setWaiting(null);
      made.arrive(output?.dpo_set?.[0]);
    });
    chain(node, "onConfigure", () => {
      made.readSettings();
      made.showKnownSoon();
      requestAnimationFrame(() =>
        requestAnimationFrame(() => remount(node, made.ranking.element)),
      );
    });
    chain(node, "onRemoved", () => made.remove());
  },

  afterConfigureGraph: showWaiting,

  onNodeOutputsUpdated() {
    for (const one of rankings.values()) {
      if (outputsOf(one.node)?.dpo_set) one.showKnown();
    }
  },
});
