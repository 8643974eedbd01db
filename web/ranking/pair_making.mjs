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
  const asked = [];
  const others = [];
  const used = new Set();
  const sizes = new Map(images.map((image) => [image.id, image]));
  const ratings = new Ratings(ids, found.outcomes);
  const take = (pair, into) => {
    if (used.has(pair.chosen) || used.has(pair.rejected)) return;
    into.push(pair);
    used.add(pair.chosen).add(pair.rejected);
  };
  for (const pair of namedPairs(found, ratings, sizes)) take(pair, asked);
  // Worked out only where they are asked for: among many images there are thousands.
  if (asked.length < pairsPerGroup) {
    for (const pair of otherPairs(found, ratings, sizes)) {
      if (asked.length + others.length >= pairsPerGroup) break;
      take(pair, others);
    }
  }
  return [...asked.reverse(), ...others]
    .filter((pair) => !found.isRemoved(pair.chosen, pair.rejected))
    .map(({ gap: _, ...pair }) => pair);
}

// The best-and-worst picks, the last one first: it has the first claim on an image.
function namedPairs({ picks }, ratings, sizes) {
  return picks
    .filter((pick) => pick.designated && oneSize(sizes, pick.winner, pick.loser))
    .reverse()
    .map((pick) => made(ratings, pick.winner, pick.loser, true));
}

// Every other pair that may be made, the outermost first.
function otherPairs({ compared, picks, labels }, ratings, sizes) {
  const place = new Map(compared.map((image, i) => [image, i]));
  const found = picks
    .filter((pick) => !pick.designated && oneSize(sizes, pick.winner, pick.loser))
    .map((pick) => made(ratings, pick.winner, pick.loser, true));
  const picked = new Set(picks.flatMap(({ winner: a, loser: b }) => [`${a} ${b}`, `${b} ${a}`]));
  for (const winner of compared) {
    for (const loser of compared) {
      if (winner === loser || !ratings.connected(winner, loser)) continue;
      if (!oneSize(sizes, winner, loser) || labels.get(winner) === "bad") continue;
      if (ratings.probability(winner, loser) < INFERRED_PROBABILITY) continue;
      if (picked.has(`${winner} ${loser}`)) continue;
      found.push(made(ratings, winner, loser, false));
    }
  }
  return found.sort(
    (a, b) =>
      b.gap - a.gap ||
      place.get(a.chosen) - place.get(b.chosen) ||
      place.get(a.rejected) - place.get(b.rejected),
  );
}

function made(ratings, chosen, rejected, explicit) {
  return {
    chosen,
    rejected,
    explicit,
    probability: Math.max(ratings.probability(chosen, rejected), 0.5),
    gap: Math.round((ratings.mean(chosen) - ratings.mean(rejected)) * 1e9),
  };
}

/** Two images can only be trained against each other at one size. */
export function oneSize(sizes, one, other) {
  const [a, b] = [sizes.get(one), sizes.get(other)];
  return !a || !b || (a.width === b.width && a.height === b.height);
}
