// A Swiss tournament of images, two at a time: a pure reducer over plain JSON.
//
// The same reducer exists in Python (dpo_core/ranking/tournament.py), where state and events are
// described; tests/ranking/vectors holds both to the same states, to the bit.

import { draw, shuffled } from "./random_source.mjs";

export const MAX_IMAGES = 64;

const POINTS = { left: [2, 0], right: [0, 2], tie: [1, 1], both_bad: [0, 0], skip: [1, 1] };
const BYE_POINTS = 1;
const [MIN_ROUNDS, MAX_ROUNDS] = [2, 5];
const PRIOR_GAMES = 2.5;
const ITERATIONS = 100;

/** The state before the first match, of n images (2..64) and a seed in 0..2^32 - 1. */
export function start(n, seed) {
  if (!Number.isInteger(n) || n < 2 || n > MAX_IMAGES) {
    throw new RangeError(`a tournament needs 2 to ${MAX_IMAGES} images, not ${n}`);
  }
  const [order, rng] = shuffled(n, seed);
  const rounds = swissRounds(n);
  return nextRound({
    v: 1,
    n,
    seed,
    rng,
    phase: "match",
    round: 0,
    rounds,
    planned: rounds * Math.floor(n / 2),
    order,
    queue: [],
    results: [],
    byes: [],
    standings: [],
    history: [],
  });
}

/** ceil(log2 n), in 2..5; but one for two images, who have met by then. */
export function swissRounds(n) {
  return n === 2 ? 1 : Math.min(Math.max(32 - Math.clz32(n - 1), MIN_ROUNDS), MAX_ROUNDS);
}

/** The state after an event: choose, more, swap or undo. One that does not fit changes nothing. */
export function reduce(state, event) {
  if (event.type === "undo") {
    const { n, seed, history } = state;
    return history.length ? replayed(n, seed, history.slice(0, -1)) : state;
  }
  const change = { choose, more, swap }[event.type];
  const changed = change ? change(state, event) : null;
  return changed ? { ...changed, history: [...state.history, event] } : state;
}

export function replayed(n, seed, events) {
  return events.reduce(reduce, start(n, seed));
}

/**
 * The state that stored "choose" and "swap" events lead to, in whatever order they come.
 *
 * Matches are played as the tournament sets them, each with its first stored result, until one has
 * none.
 */
export function resumed(n, seed, events) {
  const known = new Map();
  const swaps = [];
  for (const event of events) {
    if (event.type === "swap") {
      swaps.push(event);
    } else if (event.type === "choose") {
      const key = two(event.left, event.right);
      if (!known.has(key)) known.set(key, event);
    }
  }
  let state = start(n, seed);
  for (;;) {
    const match = state.queue.find(([left, right]) => known.has(two(left, right)));
    if (match) {
      state = reduce(state, known.get(two(...match)));
      continue;
    }
    if (state.phase === "standings") {
      const longer = reduce(state, { type: "more" });
      if (longer.queue.length && known.has(two(...longer.queue[0]))) {
        state = longer;
        continue;
      }
    }
    break;
  }
  return swaps.reduce(reduce, state);
}

/** Bradley-Terry strengths by Hunter's iteration (2004, eq. 30), in a fixed order of operations. */
export function strengths(n, results) {
  const wins = Array(n).fill(PRIOR_GAMES);
  for (const [left, right, result] of results) {
    if (result === "left") {
      wins[left] += 1;
    } else if (result === "right") {
      wins[right] += 1;
    } else if (result === "tie") {
      wins[left] += 0.5;
      wins[right] += 0.5;
    }
  }
  let strength = Array(n).fill(1);
  for (let step = 0; step < ITERATIONS; step++) {
    const games = strength.map((one) => (2 * PRIOR_GAMES) / (one + 1));
    for (const [left, right, result] of results) {
      if (result === "both_bad") {
        games[left] += 1 / (strength[left] + 1);
        games[right] += 1 / (strength[right] + 1);
      } else if (result !== "skip") {
        const share = 1 / (strength[left] + strength[right]);
        games[left] += share;
        games[right] += share;
      }
    }
    strength = wins.map((won, i) => won / games[i]);
  }
  return strength;
}

/** The pair not played yet whose result is least certain, of equal ones the first; or null. */
export function mostInformative(n, results) {
  const strength = strengths(n, results);
  const precision = strength.map((s) => (2 * PRIOR_GAMES * s) / ((1 + s) * (1 + s)));
  for (const [left, right, result] of results) {
    if (result === "both_bad") {
      for (const i of [left, right]) {
        precision[i] += strength[i] / ((1 + strength[i]) * (1 + strength[i]));
      }
    } else if (result !== "skip") {
      const both = strength[left] + strength[right];
      const bend = (strength[left] * strength[right]) / (both * both);
      precision[left] += bend;
      precision[right] += bend;
    }
  }
  const played = met(results);
  let best = null;
  let most = -1;
  for (let i = 0; i < n; i++) {
    for (let j = i + 1; j < n; j++) {
      const both = strength[i] + strength[j];
      const unsure = (strength[i] * strength[j]) / (both * both);
      const information = unsure * (1 / precision[i] + 1 / precision[j]);
      if (information > most && !played.has(two(i, j))) {
        most = information;
        best = [i, j];
      }
    }
  }
  return best;
}

function choose(state, { left, right, result }) {
  if (!Object.hasOwn(POINTS, result)) return null;
  const queue = state.queue.filter((match) => two(...match) !== two(left, right));
  if (queue.length === state.queue.length) return null;
  const changed = { ...state, queue, results: [...state.results, [left, right, result]] };
  if (queue.length) return changed;
  return state.round < state.rounds ? nextRound(changed) : withStandings(changed);
}

function more(state) {
  if (state.phase !== "standings") return null;
  const pair = mostInformative(state.n, state.results);
  if (!pair) return null;
  const [match, rng] = sided(pair, state.rng);
  return {
    ...state,
    phase: "match",
    rng,
    planned: state.planned + 1,
    queue: [match],
    standings: [],
  };
}

function swap(state, { up, down }) {
  const { standings } = state;
  if (up === down || !standings.includes(up) || !standings.includes(down)) return null;
  const changed = standings.map((one) => (one === up ? down : one === down ? up : one));
  return { ...state, standings: changed };
}

function withStandings(state) {
  const strength = strengths(state.n, state.results);
  const points = pointsOf(state);
  const place = placeOf(state.order);
  const standings = [...state.order].sort(
    (a, b) => strength[b] - strength[a] || points[b] - points[a] || place[a] - place[b],
  );
  return { ...state, phase: "standings", standings };
}

function nextRound(state) {
  const points = pointsOf(state);
  const place = placeOf(state.order);
  const table = [...state.order].sort((a, b) => points[b] - points[a] || place[a] - place[b]);
  const found = pairing(table, met(state.results), state.byes);
  if (!found) return withStandings(state);
  const queue = [];
  let rng = state.rng;
  for (const match of found.matches) {
    let seated;
    [seated, rng] = sided(match, rng);
    queue.push(seated);
  }
  const byes = found.bye === null ? state.byes : [...state.byes, found.bye];
  return { ...state, round: state.round + 1, rng, queue, byes };
}

// Neighbours in the table play, nobody twice against another; the lowest sits out.
function pairing(table, played, byes) {
  if (table.length % 2 === 0) {
    const matches = matched(table, played);
    return matches && { matches, bye: null };
  }
  for (const bye of [...table].reverse()) {
    if (byes.includes(bye)) continue;
    const matches = matched(
      table.filter((image) => image !== bye),
      played,
    );
    if (matches) return { matches, bye };
  }
  return null;
}

function matched(table, played) {
  if (!table.length) return [];
  const [first, ...rest] = table;
  for (let i = 0; i < rest.length; i++) {
    if (played.has(two(first, rest[i]))) continue;
    const matches = matched([...rest.slice(0, i), ...rest.slice(i + 1)], played);
    if (matches) return [[first, rest[i]], ...matches];
  }
  return null;
}

function pointsOf(state) {
  const points = Array(state.n).fill(0);
  for (const [left, right, result] of state.results) {
    points[left] += POINTS[result][0];
    points[right] += POINTS[result][1];
  }
  for (const image of state.byes) points[image] += BYE_POINTS;
  return points;
}

function placeOf(order) {
  const place = [];
  order.forEach((image, i) => (place[image] = i));
  return place;
}

function sided([one, other], rng) {
  const [number, next] = draw(rng);
  return [number >>> 31 ? [other, one] : [one, other], next];
}

function met(results) {
  return new Set(results.map(([left, right]) => two(left, right)));
}

function two(one, other) {
  return one < other ? one * MAX_IMAGES + other : other * MAX_IMAGES + one;
}
