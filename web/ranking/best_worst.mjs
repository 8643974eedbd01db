// Best and worst of a set: click the best, then the worst; both then sit out, and so on.

import { oneSize } from "./pair_making.mjs";
import { bestWorstVote } from "./vote.mjs";

export const NOTHING_PICKED = { best: null, goOn: false };

/**
 * Where the picking stands.
 *
 * @param {string[]} images ids of the set
 * @param {object[]} votes those that count, oldest first
 * @param {{best: string|null, goOn: boolean}} draft the best picked and not yet paired, and
 *   whether the person goes on after the last pair asked for
 * @returns pairs picked, `left` to pick from, `phase`: best, worst or done, `goal`: pairs wanted
 */
export function selection(images, votes, draft, pairsPerGroup) {
  const pairs = [];
  const used = new Map();
  for (const vote of votes) {
    if (vote.kind !== "best_worst" || used.has(vote.best) || used.has(vote.worst)) continue;
    pairs.push({ best: vote.best, worst: vote.worst, id: vote.id });
    used.set(vote.best, { pair: pairs.length, role: "best" });
    used.set(vote.worst, { pair: pairs.length, role: "worst" });
  }
  const left = images.filter((image) => !used.has(image));
  const possible = pairs.length + Math.floor(left.length / 2);
  const asked = Math.max(pairsPerGroup, pairs.length + (draft.goOn ? 1 : 0));
  const goal = Math.min(asked, possible);
  const best = left.includes(draft.best) ? draft.best : null;
  const phase = pairs.length >= goal ? "done" : best === null ? "best" : "worst";
  const mayGoOn = phase === "done" && left.length > 1;
  return { pairs, used, left, best, goal, phase, mayGoOn, goOn: draft.goOn };
}

/** Whether an image may be picked now: the worst must have the best one's size, for training. */
export function mayPick(where, image, sizes) {
  if (where.phase === "done" || !where.left.includes(image)) return false;
  return where.best === null || oneSize(sizes, where.best, image);
}

/** What a click on an image means: a new draft, or the fields of a vote; null for nothing. */
export function pick(where, image, sizes) {
  if (!mayPick(where, image, sizes)) return null;
  const { goOn } = where;
  if (where.best === image) return { draft: { best: null, goOn } };
  if (where.phase === "best") return { draft: { best: image, goOn } };
  return { vote: bestWorstVote(where.best, image, where.left) };
}
