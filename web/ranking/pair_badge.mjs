// Which images form which pair: shown before a choice is confirmed, and after.

import { strengths } from "./tournament.mjs";

/** @typedef {{chosen: string, rejected: string}} ImagePair */

/** Pairs of the picks so far and the one that `hovered` would complete. */
export function bestWorstPairs(where, hovered) {
  const pairs = where.pairs.map(({ best, worst }) => ({ chosen: best, rejected: worst }));
  const worst = where.left.includes(hovered) && hovered !== where.best ? hovered : null;
  if (where.best !== null) pairs.push({ chosen: where.best, rejected: worst });
  return pairs;
}

/**
 * The pairs an order would make: the outermost first, each image once, both of one size.
 *
 * @param {Map<string, {width: number, height: number}>} sizes
 * @returns {ImagePair[]} at most `count`
 */
export function orderPairs(order, sizes, count) {
  const images = order.flat();
  const results = [];
  order.forEach((tied, place) => {
    const worse = order.slice(place + 1).flat();
    tied.forEach((image, i) => {
      const at = images.indexOf(image);
      for (const other of tied.slice(i + 1)) results.push([at, images.indexOf(other), "tie"]);
      for (const other of worse) results.push([at, images.indexOf(other), "left"]);
    });
  });
  const rating = strengths(images.length, results).map(Math.log);
  const possible = results
    .filter(([i, j, result]) => result === "left" && oneSize(sizes, images[i], images[j]))
    .map(([i, j]) => ({ i, j, gap: Math.round((rating[i] - rating[j]) * 1e9) }))
    .sort((a, b) => b.gap - a.gap || a.i - b.i || a.j - b.j);
  const used = new Set();
  const pairs = [];
  for (const { i, j } of possible) {
    if (pairs.length >= count) break;
    if (used.has(i) || used.has(j)) continue;
    used.add(i).add(j);
    pairs.push({ chosen: images[i], rejected: images[j] });
  }
  return pairs;
}

/** Two images can only be trained against each other at one size. */
export function oneSize(sizes, one, other) {
  const [a, b] = [sizes.get(one), sizes.get(other)];
  return !a || !b || (a.width === b.width && a.height === b.height);
}

/** image -> {number, role}: the badge on its tile. */
export function badges(pairs) {
  const found = new Map();
  pairs.forEach(({ chosen, rejected }, i) => {
    if (chosen) found.set(chosen, { number: i + 1, role: "chosen" });
    if (rejected) found.set(rejected, { number: i + 1, role: "rejected" });
  });
  return found;
}
