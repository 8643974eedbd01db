import assert from "node:assert/strict";
import { test } from "node:test";

import { planSettings } from "../../../web/runs/settings_plan.mjs";

const USUAL = {
  DPONoise: { sigmas: "auto", low: 0, high: 1, draws_per_pair: 1, cached_draws: 0 },
  DPOObjective: { preset: "custom", loss: "sigmoid", beta: 5000, beta_per_epoch: "", weight: 1 },
  DPOOptimizer: { optimizer: "adamw", schedule: "constant", warmup_steps: 10 },
  DPOAdapter: { type: "lora", targets: "all_linear", pattern: "", dropout: 0 },
  DPOValidation: { percent: 10, every: 50 },
};
const usual = (type) => USUAL[type];

const run = (settings = {}, more = {}) => ({
  settings: {
    batch_size: 2,
    seed: 7,
    objective: { loss: "sigmoid", beta: 5000, beta_per_epoch: [], weight: 1, also: null },
    noise: { sigmas: "auto", low: 0, high: 1, draws_per_pair: 1, cached_draws: 0 },
    optimizer: { algorithm: "adamw", schedule: "constant", warmup_steps: 10, learning_rate: 1e-4 },
    validation: null,
    ...settings,
  },
  adapter: { rank: 8, alpha: 8, kind: "lora", targets: "all_linear", pattern: "", dropout: 0 },
  execution_mode: "full_concurrent",
  gradient_checkpointing: false,
  ...more,
});

const node = (type, values, inputs = {}) => ({
  id: 1,
  type,
  title: type,
  inputs,
  widgets: Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, { value, linked: false }]),
  ),
});

const trainer = (inputs = {}) =>
  node(
    "DPOTrainer",
    {
      rank: 16, alpha: 16, learning_rate: 5e-5, batch_size: 1, seed: 7,
      execution_mode: "sequential", gradient_checkpointing: true,
    }, // prettier-ignore
    inputs,
  );

const set = (plan) =>
  Object.fromEntries(plan.changes.map(({ node: { type }, widget, value }) => [`${type}.${widget}`, value]));

test("the trainer takes what differs, and nothing else changes", () => {
  const plan = planSettings(run(), trainer(), usual);
  assert.deepEqual(set(plan), {
    "DPOTrainer.rank": 8,
    "DPOTrainer.alpha": 8,
    "DPOTrainer.learning_rate": 1e-4,
    "DPOTrainer.batch_size": 2,
    "DPOTrainer.execution_mode": "full_concurrent",
    "DPOTrainer.gradient_checkpointing": false,
  });
  assert.deepEqual(plan.missing, []);
});

test("what a run does not say is left as it is", () => {
  const told = run({}, { execution_mode: "", gradient_checkpointing: null });
  const names = Object.keys(set(planSettings(told, trainer(), usual)));
  assert.ok(!names.includes("DPOTrainer.execution_mode"));
  assert.ok(!names.includes("DPOTrainer.gradient_checkpointing"));
});

test("connected nodes take their parts, an objective as custom", () => {
  const inputs = {
    objective: node("DPOObjective", {
      preset: "strong", loss: "sigmoid", beta: 200, beta_per_epoch: "", weight: 1,
    }), // prettier-ignore
    optimizer: node("DPOOptimizer", { optimizer: "adamw", schedule: "constant", warmup_steps: 0 }),
    adapter: node("DPOAdapter", { type: "dora", targets: "attention", pattern: "x", dropout: 0 }),
  };
  const objective = { loss: "sigmoid", beta: 5000, beta_per_epoch: [900, 0.5], weight: 1, also: null };
  const plan = planSettings(run({ objective }), trainer(inputs), usual);
  const found = set(plan);
  assert.equal(found["DPOObjective.preset"], "custom");
  assert.equal(found["DPOObjective.beta"], 5000);
  assert.equal(found["DPOObjective.beta_per_epoch"], "900, 0.5");
  assert.equal(found["DPOOptimizer.warmup_steps"], 10);
  assert.deepEqual(
    [found["DPOAdapter.type"], found["DPOAdapter.targets"], found["DPOAdapter.pattern"]],
    ["lora", "all_linear", ""],
  );
  assert.deepEqual(plan.missing, []);
});

test("a node that is not there is named where the run was not as usual", () => {
  const settings = { noise: { sigmas: "stratified", low: 0, high: 1, draws_per_pair: 1, cached_draws: 8 } };
  const { missing } = planSettings(run(settings), trainer(), usual);
  assert.deepEqual(missing, [
    "Connect Noise (DPO), which the run had, with sigmas stratified, cached_draws 8.",
  ]);
});

test("validation is asked for even as usual, and taken away where there was none", () => {
  const asked = planSettings(run({ validation: { percent: 10, every: 50 } }), trainer(), usual);
  assert.deepEqual(asked.missing, ["Connect Validation (DPO), which the run had."]);
  const inputs = { validation: node("DPOValidation", { percent: 10 }) };
  const taken = planSettings(run(), trainer(inputs), usual);
  assert.deepEqual(taken.missing, ["The run had no Validation (DPO): disconnect it."]);
});

test("what comes from elsewhere, is not offered or does not exist is told and not changed", () => {
  const given = trainer();
  given.widgets.rank.linked = true;
  given.widgets.execution_mode.options = ["sequential"];
  delete given.widgets.alpha;
  const plan = planSettings(run(), given, usual);
  assert.deepEqual(plan.missing, [
    "DPOTrainer: rank 8: it comes from another node.",
    "DPOTrainer: alpha 8: this node has no such setting.",
    "DPOTrainer: execution_mode full_concurrent: this ComfyUI does not offer it.",
  ]);
  assert.ok(!plan.changes.some(({ widget }) => ["rank", "alpha", "execution_mode"].includes(widget)));
  const other = trainer({ noise: node("Switch", {}) });
  assert.deepEqual(planSettings(run(), other, usual).missing, [
    "noise comes from Switch, which was left as it is.",
  ]);
});

test("objectives that are added up are filled one after the other", () => {
  const term = (beta, also = null) => ({ loss: "sigmoid", beta, beta_per_epoch: [], weight: 1, also });
  const widgets = { preset: "custom", loss: "sigmoid", beta: 5000, beta_per_epoch: "", weight: 1 };
  const second = node("DPOObjective", widgets);
  const inputs = { objective: node("DPOObjective", widgets, { also: second }) };
  const both = planSettings(run({ objective: term(1, term(2)) }), trainer(inputs), usual);
  const betas = both.changes.filter(({ widget }) => widget === "beta").map(({ value }) => value);
  assert.deepEqual([betas, both.missing], [[1, 2], []]);
  const one = planSettings(run({ objective: term(1) }), trainer(inputs), usual);
  assert.deepEqual(one.missing, [
    "The run had no further objective: disconnect also of DPOObjective.",
  ]);
  const three = planSettings(run({ objective: term(1, term(2, term(3))) }), trainer(inputs), usual);
  assert.deepEqual(three.missing, ["Connect Objective (DPO), which the run had, with beta 3."]);
});

test("a refined LoRA brings its own rank and alpha", () => {
  const plan = planSettings(run({}, { adapter: { dropout: 0 } }), trainer(), usual);
  assert.ok(!plan.changes.some(({ widget }) => widget === "rank"));
  assert.match(plan.missing[0], /connect that LoRA to existing_lora/);
});

test("a damaged run changes nothing and breaks nothing", () => {
  const plan = planSettings({ settings: {}, adapter: {} }, trainer(), usual);
  assert.deepEqual(plan.changes, []);
});
