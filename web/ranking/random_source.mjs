// Random numbers that Python and JavaScript draw alike: mulberry32 (Ettinger, 2017), as a pure
// function of one unsigned 32-bit state.

const INCREMENT = 0x6d2b79f5;

/** @returns {[number, number]} a number in 0..2^32 - 1 and the next state */
export function draw(state) {
  const next = (state + INCREMENT) >>> 0;
  let mixed = Math.imul(next ^ (next >>> 15), next | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return [(mixed ^ (mixed >>> 14)) >>> 0, next];
}

/** @returns {[number[], number]} 0..n-1 in random order (Fisher and Yates), and the next state */
export function shuffled(n, state) {
  const order = Array.from({ length: n }, (_, i) => i);
  let rng = state;
  for (let i = n - 1; i > 0; i--) {
    let number;
    [number, rng] = draw(rng);
    const j = number % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return [order, rng];
}
