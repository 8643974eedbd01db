// Good, bad or none, for each image by itself.

import { thumbsVote } from "./vote.mjs";

/** image -> good, bad or none. */
export function labels(images, votes) {
  const found = new Map(images.map((image) => [image, "none"]));
  for (const vote of votes) {
    if (vote.kind !== "thumbs") continue;
    for (const [image, label] of Object.entries(vote.labels)) {
      if (found.has(image)) found.set(image, label);
    }
  }
  return found;
}

/** The fields of a vote; the label an image already has takes it off again. */
export function label(current, image, wanted) {
  const before = current.get(image);
  if (before === undefined || (before === wanted && wanted === "none")) return null;
  return thumbsVote(image, before === wanted ? "none" : wanted);
}

export function counts(current) {
  const found = { good: 0, bad: 0, none: 0 };
  for (const one of current.values()) found[one] += 1;
  return found;
}

/** The next image without a label, from the one behind `image` on and round; else null. */
export function nextUnlabelled(images, current, image) {
  const at = images.indexOf(image);
  const after = [...images.slice(at + 1), ...images.slice(0, at)];
  return after.find((one) => current.get(one) === "none") ?? null;
}
