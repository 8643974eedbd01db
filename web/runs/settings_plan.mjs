// Which widgets of a trainer and of the nodes before it take which of a run's settings.
// Knows no page.
//
// A node is {id, type, title, widgets: {name: {value, options, linked}}, inputs: {name: node | null}};
// `options` are the values that a list allows, else undefined.

const OBJECTIVE = [
  "loss", "beta", "label_smoothing", "supervised_mix", "safeguard", "simpo_beta", "simpo_gamma",
  "cpo_alpha", "mapo_lambda", "exo_epsilon", "rating_scale", "divergence_alpha", "dpop_lambda",
  "davidson_nu", "discopop_tau", "adaptive_beta", "gradient_target", "weight",
]; // prettier-ignore
const NOISE = ["sigmas", "low", "high", "draws_per_pair", "cached_draws"];
const OPTIMIZER = [
  "schedule", "warmup_steps", "total_steps", "weight_decay", "beta1", "beta2", "max_grad_norm",
  "ema",
]; // prettier-ignore
const ADAPTER = ["targets", "pattern", "dropout"];
const VALIDATION = [
  "percent", "split_seed", "every", "at_start", "patience", "patience_mode", "save_best",
]; // prettier-ignore

const pick = (from, names) =>
  Object.fromEntries(names.filter((name) => name in from).map((name) => [name, from[name]]));

/** By the trainer's input: the node that it takes, and what of a run goes into its widgets. */
const PARTS = {
  objective: {
    type: "DPOObjective",
    title: "Objective (DPO)",
    values: ({ settings }) => objectiveValues(settings.objective),
  },
  noise: {
    type: "DPONoise",
    title: "Noise (DPO)",
    values: ({ settings }) => settings.noise && pick(settings.noise, NOISE),
  },
  optimizer: {
    type: "DPOOptimizer",
    title: "Optimizer (DPO)",
    values: ({ settings: { optimizer } }) =>
      optimizer && { optimizer: optimizer.algorithm, ...pick(optimizer, OPTIMIZER) },
  },
  adapter: {
    type: "DPOAdapter",
    title: "Adapter (DPO)",
    values: ({ adapter }) =>
      "rank" in adapter ? { type: adapter.kind, ...pick(adapter, ADAPTER) } : pick(adapter, ["dropout"]),
  },
  validation: {
    type: "DPOValidation",
    title: "Validation (DPO)",
    values: ({ settings }) => settings.validation && pick(settings.validation, VALIDATION),
  },
};

function objectiveValues(objective) {
  return (
    objective && {
      preset: "custom",
      beta_per_epoch: (objective.beta_per_epoch ?? []).join(", "),
      ...pick(objective, OBJECTIVE),
    }
  );
}

function trainerValues({ settings, adapter, execution_mode: mode, gradient_checkpointing: saving }) {
  return {
    ...pick(adapter, ["rank", "alpha"]),
    ...pick(settings.optimizer ?? {}, ["learning_rate"]),
    ...pick(settings, ["batch_size", "grad_accumulation_steps", "shared_noise", "seed"]),
    ...(mode ? { execution_mode: mode } : {}),
    ...(typeof saving === "boolean" ? { gradient_checkpointing: saving } : {}),
  };
}

/**
 * What has to change so that a trainer trains as a run did.
 *
 * @param run {settings, adapter, execution_mode, gradient_checkpointing} of GET /dpo/runs/{id}
 * @param trainer the DPOTrainer node
 * @param usual (type) => {widget: default} of a node that is not there
 * @returns {{changes: {node, widget, value}[], missing: string[]}} `missing`: what cannot be set
 */
export function planSettings(run, trainer, usual) {
  const plan = new Plan(usual);
  plan.fill(trainer, trainerValues(run));
  if (!("rank" in run.adapter)) {
    plan.missing.push("The run refined a LoRA, whose rank and alpha it kept: connect that LoRA to existing_lora.");
  }
  for (const [input, part] of Object.entries(PARTS)) {
    plan.join(trainer, input, part, part.values(run));
  }
  plan.objectives(trainer.inputs.objective, run.settings.objective);
  return { changes: plan.changes, missing: plan.missing };
}

class Plan {
  constructor(usual) {
    this.usual = usual;
    this.changes = [];
    this.missing = [];
  }

  fill(node, values) {
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets[name];
      if (widget && same(widget.value, value)) continue;
      const said = `${node.title}: ${name} ${shown(value)}`;
      if (!widget) this.missing.push(`${said}: this node has no such setting.`);
      else if (widget.linked) this.missing.push(`${said}: it comes from another node.`);
      else if (widget.options && !widget.options.includes(value)) {
        this.missing.push(`${said}: this ComfyUI does not offer it.`);
      } else this.changes.push({ node, widget: name, value });
    }
  }

  join(trainer, input, part, values) {
    const node = trainer.inputs[input] ?? null;
    if (!values) {
      if (node) this.missing.push(`The run had no ${part.title}: disconnect it.`);
    } else if (!node) this._withoutNode(part, values);
    else if (node.type !== part.type) {
      this.missing.push(`${input} comes from ${node.title}, which was left as it is.`);
    } else this.fill(node, values);
  }

  /** Without a node the trainer uses the defaults: what differs needs one. */
  _withoutNode({ type, title }, values) {
    const usual = this.usual(type);
    const differing = Object.entries(values).filter(([name, value]) => !same(usual[name], value));
    if (!differing.length && type !== "DPOValidation") return;
    const told = differing.map(([name, value]) => `${name} ${shown(value)}`).join(", ");
    this.missing.push(`Connect ${title}, which the run had${told ? `, with ${told}` : ""}.`);
  }

  /** Objectives that are added to the first one. */
  objectives(node, settings) {
    let [at, term] = [node, settings];
    while (at?.type === PARTS.objective.type && (at.inputs.also || term?.also)) {
      const next = at.inputs.also ?? null;
      if (!term?.also) {
        this.missing.push(`The run had no further objective: disconnect also of ${at.title}.`);
        return;
      }
      this.join(at, "also", PARTS.objective, objectiveValues(term.also));
      [at, term] = [next, term.also];
    }
  }
}

/** Numbers are equal that a widget cannot tell apart. */
function same(one, other) {
  if (typeof one === "number" && typeof other === "number") {
    return Math.abs(one - other) <= 1e-9 * Math.max(Math.abs(one), Math.abs(other));
  }
  return one === other;
}

function shown(value) {
  if (typeof value === "boolean") return value ? "on" : "off";
  return value === "" ? "empty" : String(value);
}
