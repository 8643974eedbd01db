// What a training is looked at by: panels, and the curves in each.
//
// A curve may have `points` (validation: few and careful, drawn as dots and never smoothed) and
// `interval`, the metrics of its lower and upper end.

const percent = (value) => `${Number((100 * value).toPrecision(3))} %`;

export const PANELS = [
  {
    id: "loss",
    title: "Loss",
    hint: "What training lowers. At first it is known: 0.693 for DPO.",
    curves: [
      { metric: "loss/dpo", name: "training", tone: "blue" },
      { metric: "dpo/val_loss", name: "validation", tone: "purple", points: true },
    ],
  },
  {
    id: "accuracy",
    title: "Accuracy",
    hint: "How often the model agrees with your choice; one half is chance. Bars on validation: where the true share may lie.",
    range: [0, 1],
    line: 0.5,
    format: percent,
    curves: [
      { metric: "dpo/accuracy", name: "training", tone: "green" },
      {
        metric: "dpo/val_accuracy",
        name: "validation",
        tone: "purple",
        points: true,
        interval: ["dpo/val_accuracy_low", "dpo/val_accuracy_high"],
      },
    ],
  },
  {
    id: "margin",
    title: "Reward margin",
    hint: "How much further the chosen picture has come than the rejected one.",
    line: 0,
    curves: [
      { metric: "dpo/reward_margin", name: "training", tone: "orange" },
      { metric: "dpo/val_reward_margin", name: "validation", tone: "purple", points: true },
    ],
  },
  {
    id: "rewards",
    title: "Rewards",
    hint: "Above zero the model is better at a picture than before. Both below zero is a bad sign.",
    line: 0,
    curves: [
      { metric: "dpo/chosen_reward", name: "chosen", tone: "green" },
      { metric: "dpo/rejected_reward", name: "rejected", tone: "red" },
      { metric: "dpo/val_chosen_reward", name: "chosen, validation", tone: "teal", points: true },
      { metric: "dpo/val_rejected_reward", name: "rejected, validation", tone: "orange", points: true },
    ],
  },
  {
    id: "rho",
    title: "Rho",
    hint: "Error on chosen pictures, by the error of the base model. Above 1 it gets worse at what you like.",
    line: 1,
    digits: 5,
    curves: [
      { metric: "rho", name: "training", tone: "teal", smooth: false },
      { metric: "val/rho", name: "validation", tone: "purple", points: true },
    ],
  },
  {
    id: "change",
    title: "Prediction change",
    hint: "How far predictions have moved from the base model's. Below 1 % you hardly see it.",
    map: (value) => Math.sqrt(Math.max(0, value)),
    format: percent,
    curves: [
      { metric: "prediction_change", name: "training", tone: "purple" },
      { metric: "val/prediction_change", name: "validation", tone: "orange", points: true },
    ],
  },
  {
    id: "rate",
    title: "Learning rate",
    hint: "Size of the steps, as the schedule has it.",
    curves: [{ metric: "learning_rate", name: "learning rate", tone: "blue", smooth: false }],
  },
  {
    id: "norm",
    title: "Gradient norm",
    hint: "Before it is cut to the largest allowed.",
    curves: [{ metric: "grad_norm", name: "training", tone: "red" }],
  },
];

export const FIRST_PANELS = ["loss", "accuracy", "margin", "rewards"];

/** Steps to smooth over; 1 is as logged. */
export const SPANS = [1, 5, 10, 20, 50, 100, 200, 500, 1000];
export const FIRST_SPAN = 10;

/** All metrics that some panel shows. */
export const METRICS = PANELS.flatMap(({ curves }) =>
  curves.flatMap(({ metric, interval = [] }) => [metric, ...interval]),
);

/** A person's choice as it can be trusted: {panels, span}. */
export function readView(value) {
  const known = PANELS.map(({ id }) => id);
  const wanted = Array.isArray(value?.panels) ? known.filter((id) => value.panels.includes(id)) : [];
  return {
    panels: wanted.length ? wanted : FIRST_PANELS,
    span: SPANS.includes(value?.span) ? value.span : FIRST_SPAN,
  };
}
