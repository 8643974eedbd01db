// Nodes of the page's graph, as more than one of our widgets needs them.

import { app } from "../../scripts/app.js";

/** The node with an execution id such as 5 or, inside subgraphs, 2:1. */
export function nodeOf(executionId) {
  let graph = app.rootGraph;
  let node = null;
  for (const part of String(executionId).split(":")) {
    node = graph?.getNodeById?.(part) ?? graph?.getNodeById?.(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** What the last run of a node gave to the page. */
export function outputsOf(node) {
  const graph = node.graph;
  const isRoot = !graph || graph === app.rootGraph || graph.isRootGraph;
  return app.nodeOutputs?.[isRoot ? String(node.id) : `${graph.id}:${node.id}`];
}

/** Calls `also` after a node's own method. */
export function chain(node, name, also) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    also(...args);
    return result;
  };
}

/** A change of the graph, which the page keeps for the next visit. */
export function edit(change) {
  app.canvas?.emitBeforeChange?.();
  try {
    change();
  } finally {
    app.canvas?.emitAfterChange?.();
  }
}

/** Undo with Nodes 2.0 leaves the element of the node before it on the page. */
export function remount(node, element) {
  if (element.isConnected) return;
  const old = document.querySelector(
    `[data-node-id="${CSS.escape(String(node.id))}"] [data-dpo-w="${element.dataset.dpoW}"]`,
  );
  if (old && old !== element) old.replaceWith(element);
}

/** Lets the classic canvas zoom where the pointer is above an element, which it does not hear. */
export function passWheel(event) {
  if (globalThis.LiteGraph?.vueNodesMode || event.defaultPrevented) return;
  event.preventDefault();
  app.canvas?.processMouseWheel?.(event);
}
