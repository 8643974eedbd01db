// The ranking widget in ComfyUI: DPO_RANKING inputs, and what runs, reloads and events mean to them.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { NodeComparison } from "./comparison/node_comparison.mjs";
import { chain, nodeOf, remount } from "./graph.mjs";
import { http, NodeRanking } from "./node_ranking.mjs";
import { NodeRounds } from "./node_rounds.mjs";
import { loadStyles } from "./page.mjs";

const TYPE = "DPO_RANKING";
const ROUNDS = "DPOOnlineRounds";

/** What is on the page, by node. */
const rankings = new Map();

function rankingAt(executionId) {
  return rankings.get(nodeOf(executionId));
}

function kindFor(node, options) {
  if (options?.blind) return NodeComparison;
  return node.constructor.comfyClass === ROUNDS ? NodeRounds : NodeRanking;
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
    loadStyles("./ranking/ranking.css", "./comparison/comparison.css");
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
      for (const one of rankings.values()) one.retry();
    });
  },

  getCustomWidgets() {
    return {
      [TYPE](node, name, [, options] = []) {
        const made = new (kindFor(node, options))(node, name);
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
    const [least, low] = made.firstSize;
    node.setSize([Math.max(width, least), Math.max(height, low)]);
    chain(node, "onExecuted", (output) => {
      made.setWaiting(null);
      made.arrive(output?.dpo_set?.[0]);
    });
    chain(node, "onConfigure", () => {
      made.readSettings();
      made.showKnownSoon();
      requestAnimationFrame(() =>
        requestAnimationFrame(() => remount(node, made.element)),
      );
    });
    chain(node, "onRemoved", () => {
      rankings.delete(node);
      made.remove();
    });
  },

  afterConfigureGraph: showWaiting,

  onNodeOutputsUpdated() {
    for (const one of rankings.values()) {
      if (one.lastRun) one.showKnown();
    }
  },
});
