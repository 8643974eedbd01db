// One DPO_RANKING input of a node: the ranking widget in it, and what the workflow keeps of it.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { edit, outputsOf, passWheel } from "./graph.mjs";
import { httpPort, newId } from "./ranking/http_port.mjs";
import { RankingWidget } from "./ranking/view/ranking_widget.mjs";

const FIRST_SIZE = [440, 720];
const LEAST_HEIGHT = 360;
/** The person sees what was chosen, and can take it back, before the next images come. */
export const SEEN_SECONDS = 0.55;
/** The set on display, where the workflow keeps it: the prompt does not change with it. */
const SHOWN = "dpo_set";

export const http = httpPort((path, options) => api.fetchApi(path, options));

export class NodeRanking {
  constructor(node, name) {
    this.node = node;
    this.name = name;
    this.value = {};
    this.ranking = new RankingWidget(this._port(), newId);
    this.element = this._build();
    const { element } = this;
    element.dataset.dpoW = name;
    this.widget = node.addDOMWidget(name, "dpo_ranking", element, {
      getValue: () => this.value,
      setValue: (value) => this._restore(value),
      getMinHeight: () => this.leastHeight,
      hideOnZoom: false,
    });
    this.widget.serializeValue = () => ofUser(this.value);
    element.addEventListener("wheel", (event) => this._passWheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this._press(event));
    const board = this.ranking.element.firstElementChild;
    board.addEventListener("click", (event) => this._click(event));
    this._follow("mode", (mode) => this.ranking.board.setMode(mode));
    this._follow("pairs_per_group", (n) => this.ranking.board.setPairsPerGroup(Number(n)));
  }

  /** Width and height of a new node, at least. */
  get firstSize() {
    return FIRST_SIZE;
  }

  get leastHeight() {
    return LEAST_HEIGHT;
  }

  /** What is on the page; `ranking` is made by now. */
  _build() {
    return this.ranking.element;
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

  /** What the last run told to show. */
  get lastRun() {
    return outputsOf(this.node)?.dpo_set?.[0];
  }

  /** What this node had on display: from the last run, else the workflow. */
  showKnown() {
    const known = this.lastRun ?? this.node.properties?.[SHOWN] ?? this.value;
    this.readSettings();
    if (isReference(known)) this.ranking.board.show(known);
    else this.ranking.board.clear();
  }

  /** Images of a run. */
  arrive(reference) {
    this.readSettings();
    if (isReference(reference)) this.ranking.arrive(reference);
  }

  /** The server is there again. */
  retry() {
    this.ranking.board.retry();
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
    const grid = event.target.closest?.(".dpo-grid, .dpo-scrolls");
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
    this.ranking.dispose();
  }
}

/** A node's value as a prompt takes it: the server knows users by requests, but not by prompts. */
function ofUser(value) {
  return api.user && api.user !== "default" ? { ...value, user: api.user } : value;
}

export function isReference(value) {
  return typeof value?.session === "string" && typeof value.set_id === "string" && value.set_id;
}
