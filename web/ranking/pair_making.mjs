// The pairs that votes on a set make, as dpo_core/ranking/pair_making.py chooses them; so that a
// choice shows what it will do before it is made.

import { judge } from "./judgement.mjs";
import { Ratings } from "./ratings.mjs";

const INFERRED_PROBABILITY = 0.65;

/**
 * First the named best-and-worst picks in the order they were made, then the outermost.
 *
 * @param {{id: string, width: number, height: number}[]} images of the set
 * @param {object[]} votes those that count, oldest first
 * @returns {{chosen: string, rejected: string, explicit: boolean, probability: number}[]}
 */
export function chosenPairs(images, votes, pairsPerGroup) {
  const ids = images.map((image) => image.id);
  const found = judge(ids, votes);
  const named = new Set();
  const asked = [];
  const others = [];
  const used = new Set();
  const sizes = new Map(images.map((image) => [image.id, image]));
  for (const pick of found.picks) if (pick.designated) named.add(`${pick.winner} ${pick.loser}`);
  for (const pair of possible(found, new Ratings(ids, found.outcomes), sizes)) {
    const isNamed = named.has(`${pair.chosen} ${pair.rejected}`);
    if (asked.length + others.length >= pairsPerGroup && !isNamed) continue;
    if (used.has(pair.chosen) || used.has(pair.rejected)) continue;
    (isNamed ? asked : others).push(pair);
    used.add(pair.chosen).add(pair.rejected);
  }
  return [...asked.reverse(), ...others].map(({ gap: _, ...pair }) => pair);
}

// Every pair that may be made, those with the first claim on an image first.
function possible(found, ratings, sizes) {
  const { compared, picks, labels } = found;
  const place = new Map(compared.map((image, i) => [image, i]));
  const made = (chosen, rejected, explicit) => ({
    chosen,
    rejected,
    explicit,
    probability: Math.max(ratings.probability(chosen, rejected), 0.5),
    gap: Math.round((ratings.mean(chosen) - ratings.mean(rejected)) * 1e9),
  });
  const fit = picks.filter((pick) => oneSize(sizes, pick.winner, pick.loser));
  const named = fit.filter((pick) => pick.designated).reverse();
  const others = fit
    .filter((pick) => !pick.designated)
    .map((pick) => made(pick.winner, pick.loser, true));
  const picked = new Set(picks.flatMap(({ winner: a, loser: b }) => [`${a} ${b}`, `${b} ${a}`]));
  for (const winner of compared) {
    for (const loser of compared) {
      const mayBe = winner !== loser && !picked.has(`${winner} ${loser}`);
      if (!mayBe || !oneSize(sizes, winner, loser) || labels.get(winner) === "bad") continue;
      if (!ratings.connected(winner, loser)) continue;
      if (ratings.probability(winner, loser) < INFERRED_PROBABILITY) continue;
      others.push(made(winner, loser, false));
    }
  }
  others.sort(
    (a, b) =>
      b.gap - a.gap ||
      place.get(a.chosen) - place.get(b.chosen) ||
      place.get(a.rejected) - place.get(b.rejected),
  );
  return [...named.map((pick) => made(pick.winner, pick.loser, true)), ...others];
}

/** Two images can only be trained against each other at one size. */
export function oneSize(sizes, one, other) {
  const [a, b] = [sizes.get(one), sizes.get(other)];
  return !a || !b || (a.width === b.width && a.height === b.height);
}
