// Which images form which pair, as it stands on their tiles.

/** image -> {number, role}: the badge on its tile. */
export function badges(pairs) {
  const found = new Map();
  pairs.forEach(({ chosen, rejected }, i) => {
    if (chosen) found.set(chosen, { number: i + 1, role: "chosen" });
    if (rejected) found.set(rejected, { number: i + 1, role: "rejected" });
  });
  return found;
}
