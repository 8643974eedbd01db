// Ratings from comparisons, as dpo_core/ranking/ratings.py makes them: Bradley-Terry with
// Davidson's ties, MAP under a normal prior, by Newton's method. The sources are named there.

/** An opponent that stays at rating 0: what is just acceptable. */
export const ANCHOR = null;

const MAX_STEPS = 100;
const PRECISION = 1e-10;

/** @typedef {{winner: string|null, loser: string|null, tie?: boolean}} Outcome */

/**
 * The ratings of some images, in log odds.
 *
 * @param {string[]} images
 * @param {Outcome[]} outcomes
 */
export class Ratings {
  constructor(images, outcomes) {
    this._place = new Map();
    for (const { members, matches } of components(images, outcomes)) {
      const fitted = fit(members.length, matches);
      members.forEach((image, row) => this._place.set(image, { fitted, row }));
    }
  }

  mean(image) {
    const { fitted, row } = this._place.get(image);
    return fitted.mean[row];
  }

  /** Whether a chain of comparisons leads from one to the other. */
  connected(one, other) {
    return this._place.get(one).fitted === this._place.get(other).fitted;
  }

  /** How likely one is preferred to the other, with what is not known of both averaged over. */
  probability(one, other) {
    const [a, b] = [this._place.get(one), this._place.get(other)];
    const shared = a.fitted === b.fitted ? a.fitted.covariance(a.row)[b.row] : 0;
    const spread = variance(a) + variance(b) - 2 * shared;
    const gap = a.fitted.mean[a.row] - b.fitted.mean[b.row];
    return sigmoid(gap / Math.sqrt(1 + (Math.PI * Math.max(spread, 0)) / 8));
  }
}

const variance = ({ fitted, row }) => fitted.covariance(row)[row];

// Connected images, and how often each two of them won and tied; the anchor is behind the last.
function components(images, outcomes) {
  const parent = new Map(images.map((image) => [image, image]));
  const root = (image) => {
    while (parent.get(image) !== image) {
      parent.set(image, parent.get(parent.get(image)));
      image = parent.get(image);
    }
    return image;
  };
  for (const { winner, loser } of outcomes) {
    if (winner !== ANCHOR && loser !== ANCHOR) parent.set(root(winner), root(loser));
  }
  const found = new Map();
  const rowOf = new Map();
  for (const image of images) {
    const name = root(image);
    if (!found.has(name)) found.set(name, { members: [], counts: new Map() });
    const { members } = found.get(name);
    rowOf.set(image, members.length);
    members.push(image);
  }
  for (const { winner, loser, tie } of outcomes) {
    const { members, counts } = found.get(root(winner ?? loser));
    const [i, j] = [winner, loser].map((one) => (one === ANCHOR ? members.length : rowOf.get(one)));
    const key = Math.min(i, j) * (members.length + 1) + Math.max(i, j);
    if (!counts.has(key)) {
      counts.set(key, { i: Math.min(i, j), j: Math.max(i, j), wins: [0, 0], ties: 0 });
    }
    const match = counts.get(key);
    if (tie) match.ties += 1;
    else match.wins[i < j ? 0 : 1] += 1;
  }
  return [...found.values()].map(({ members, counts }) => ({
    members,
    matches: [...counts.values()],
  }));
}

// x holds the ratings and, last, the logarithm of the tie parameter. A matrix is one array of rows.
function fit(n, matches) {
  if (!matches.length) return { mean: new Float64Array(n), covariance: rowsOf(identity(n), n) };
  const side = n + 1;
  const canTie = matches.some((match) => match.ties);
  let x = new Float64Array(side);
  let reached = height(x, n, matches, canTie);
  for (let i = 0; i < MAX_STEPS; i++) {
    const { gradient, curvature } = derivatives(x, n, matches, canTie);
    const step = solve(cholesky(curvature, side), gradient, side);
    let size = 1;
    let next = moved(x, step, size);
    let higher = height(next, n, matches, canTie);
    while (higher < reached && size > 1e-9) {
      size /= 2;
      next = moved(x, step, size);
      higher = height(next, n, matches, canTie);
    }
    x = next;
    reached = Math.max(higher, reached);
    if (step.every((one) => Math.abs(size * one) < PRECISION)) break;
  }
  const { curvature } = derivatives(x, n, matches, canTie);
  return { mean: x, covariance: rowsOf(curvature, side) };
}

const moved = (x, step, size) => x.map((one, i) => one + size * step[i]);
const difference = (x, n, i, j) => (i < n ? x[i] : 0) - (j < n ? x[j] : 0);

// The log posterior, up to a constant.
function height(x, n, matches, canTie) {
  let found = 0;
  for (const { i, j, wins, ties } of matches) {
    const half = difference(x, n, i, j) / 2;
    let logSum = logAddExp(half, -half);
    if (canTie) logSum = logAddExp(logSum, x[n]);
    found += (wins[0] - wins[1]) * half + ties * x[n] - (wins[0] + wins[1] + ties) * logSum;
  }
  return found - x.reduce((sum, one) => sum + one * one, 0) / 2;
}

// The gradient and the negative Hessian.
function derivatives(x, n, matches, canTie) {
  const side = n + 1;
  const gradient = x.map((one) => -one);
  const curvature = identity(side);
  for (const { i, j, wins, ties } of matches) {
    const half = difference(x, n, i, j) / 2;
    const total = wins[0] + wins[1] + ties;
    const tie = canTie ? sigmoid(x[n] - logAddExp(half, -half)) : 0;
    const lean = (1 - tie) * Math.tanh(half);
    const pull = (wins[0] - wins[1]) / 2 - (total * lean) / 2;
    const bend = (total * (1 - tie - lean * lean)) / 4;
    const cross = -(total * lean * tie) / 2;
    for (const [row, sign] of [[i, 1], [j, -1]]) {
      if (row === n) continue;
      gradient[row] += sign * pull;
      curvature[row * side + row] += bend;
      curvature[row * side + n] += sign * cross;
      curvature[n * side + row] += sign * cross;
    }
    if (i < n && j < n) {
      curvature[i * side + j] -= bend;
      curvature[j * side + i] -= bend;
    }
    if (canTie) {
      gradient[n] += ties - total * tie;
      curvature[n * side + n] += total * tie * (1 - tie);
    }
  }
  return { gradient, curvature };
}

/** L of a symmetric, positive definite matrix L L'. */
function cholesky(matrix, side) {
  const lower = new Float64Array(side * side);
  for (let i = 0; i < side; i++) {
    for (let j = 0; j <= i; j++) {
      let left = matrix[i * side + j];
      for (let k = 0; k < j; k++) left -= lower[i * side + k] * lower[j * side + k];
      lower[i * side + j] = i === j ? Math.sqrt(left) : left / lower[j * side + j];
    }
  }
  return lower;
}

function solve(lower, vector, side) {
  const found = Float64Array.from(vector);
  for (let i = 0; i < side; i++) {
    for (let k = 0; k < i; k++) found[i] -= lower[i * side + k] * found[k];
    found[i] /= lower[i * side + i];
  }
  for (let i = side - 1; i >= 0; i--) {
    found[i] /= lower[i * side + i];
    for (let k = 0; k < i; k++) found[k] -= lower[i * side + k] * found[i];
  }
  return found;
}

// Rows of the inverse, each worked out when it is first asked for: of many images few make pairs.
function rowsOf(matrix, side) {
  const lower = cholesky(matrix, side);
  const known = new Map();
  return (row) => {
    if (!known.has(row)) {
      const unit = new Float64Array(side);
      unit[row] = 1;
      known.set(row, solve(lower, unit, side));
    }
    return known.get(row);
  };
}

function identity(side) {
  const found = new Float64Array(side * side);
  for (let i = 0; i < side; i++) found[i * side + i] = 1;
  return found;
}

function logAddExp(a, b) {
  return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
}

function sigmoid(x) {
  return Math.exp(-logAddExp(0, -x));
}
