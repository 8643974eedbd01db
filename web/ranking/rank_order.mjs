// The order of some images of a set: groups of tied images, best first. All functions are pure.

import { rankingVote } from "./vote.mjs";

/** The order last saved, without images that are not there. */
export function savedOrder(images, votes) {
  const last = votes.findLast((vote) => vote.kind === "ranking");
  return tidy((last?.order ?? []).map((tied) => tied.filter((image) => images.includes(image))));
}

export const ranked = (order) => order.flat();

/** image -> its place, from 1; tied images share it and the next place is free: 1, 2, 2, 4. */
export function places(order) {
  const found = new Map();
  let place = 1;
  for (const tied of order) {
    for (const image of tied) found.set(image, place);
    place += tied.length;
  }
  return found;
}

export const without = (order, image) => tidy(order.map((tied) => tied.filter((i) => i !== image)));

/** The image as a group of its own before the group that `before` is in; null: at the end. */
export function placedBefore(order, image, before) {
  if (image === before) return order;
  const rest = without(order, image);
  const at = before === null ? -1 : rest.findIndex((tied) => tied.includes(before));
  return at < 0 ? [...rest, [image]] : [...rest.slice(0, at), [image], ...rest.slice(at)];
}

/** The image as a group of its own behind the group that `after` is in. */
export function placedAfter(order, image, after) {
  if (image === after) return order;
  const rest = without(order, image);
  const at = rest.findIndex((tied) => tied.includes(after));
  return at < 0 ? [...rest, [image]] : [...rest.slice(0, at + 1), [image], ...rest.slice(at + 1)];
}

export function tiedWith(order, image, other) {
  if (image === other) return order;
  const rest = without(order, image);
  return rest.map((tied) => (tied.includes(other) ? [...tied, image] : tied));
}

/** One place up (-1) or down (1); out of a tie first. */
export function moved(order, image, by) {
  const at = order.findIndex((tied) => tied.includes(image));
  if (at < 0) return order;
  if (order[at].length > 1) {
    const rest = order[at].filter((i) => i !== image);
    const parted = by < 0 ? [[image], rest] : [rest, [image]];
    return [...order.slice(0, at), ...parted, ...order.slice(at + 1)];
  }
  const to = at + by;
  if (to < 0 || to >= order.length) return order;
  const changed = [...order];
  [changed[at], changed[to]] = [changed[to], changed[at]];
  return changed;
}

/** Ties an image with the group before it; one that is tied is taken out, behind the others. */
export function tieToggled(order, image) {
  const at = order.findIndex((tied) => tied.includes(image));
  if (at < 0) return order;
  if (order[at].length > 1) return moved(order, image, 1);
  if (at === 0) return order;
  return [...order.slice(0, at - 1), [...order[at - 1], image], ...order.slice(at + 1)];
}

export const sameOrder = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** The fields of the vote that stands for an order, in place of those before it. */
export function orderVote(order, votes) {
  const before = votes.filter((vote) => vote.kind === "ranking").map((vote) => vote.id);
  return rankingVote(order, before);
}

const tidy = (order) => order.filter((tied) => tied.length);
