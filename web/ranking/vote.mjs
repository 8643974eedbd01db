// Votes as dpo_core/ranking/vote.py stores them. Ids come from injected randomness.

/** A vote on a set: `fields` are those of its kind. */
export function vote(newId, setId, fields) {
  return { v: 1, id: newId(), set: setId, ...fields };
}

export const bestWorstVote = (best, worst, among) => ({ kind: "best_worst", best, worst, among });
export const rankingVote = (order, strikes) => ({
  kind: "ranking",
  order,
  ...(strikes.length ? { strikes } : {}),
});
export const comparisonVote = (left, right, result) => ({
  kind: "comparison",
  left,
  right,
  result,
});
export const swapVote = (up, down) => ({ kind: "swap", up, down });
export const thumbsVote = (image, label) => ({ kind: "thumbs", labels: { [image]: label } });

const SAID = {
  left: "was better than",
  right: "was worse than",
  tie: "tied with",
  skip: "was skipped against",
};

const byOf = ({ by }) => (by ? ` by a ${by}` : "");

/** One plain line for the list of steps; `name` gives an image its name. */
export function describe(one, name) {
  if (one.kind === "best_worst") return `${name(one.best)} best, ${name(one.worst)} worst`;
  if (one.kind === "ranking") return `${one.order.flat().length} images ranked${byOf(one)}`;
  if (one.kind === "swap") return `${name(one.up)} moved above ${name(one.down)}`;
  if (one.kind === "remove") return `${one.images.map(name).join(" and ")} make no pair`;
  if (one.kind === "thumbs") {
    return Object.entries(one.labels)
      .map(([image, label]) => `${name(image)} ${label === "none" ? "without a label" : label}`)
      .join(", ");
  }
  if (one.kind !== "comparison") return one.kind;
  if (one.result === "both_bad") return `${name(one.left)} and ${name(one.right)} both bad`;
  return `${name(one.left)} ${SAID[one.result]} ${name(one.right)}`;
}
