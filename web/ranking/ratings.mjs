// Ratings from comparisons, as dpo_core/ranking/ratings.py makes them: Bradley-Terry with Davidson's
// ties, MAP under a normal prior, by Newton's method. The sources are named there.

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
    const shared = a.fitted === b.fitted ? a.fitted.covariance[a.row][b.row] : 0;
    const spread =
      a.fitted.covariance[a.row][a.row] + b.fitted.covariance[b.row][b.row] - 2 * shared;
    const gap = this.mean(one) - this.mean(other);
    return sigmoid(gap / Math.sqrt(1 + (Math.PI * Math.max(spread, 0)) / 8));
  }
}

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

// x holds the ratings and, last, the logarithm of the tie parameter.
function fit(n, matches) {
  if (!matches.length) return { mean: Array(n).fill(0), covariance: identity(n) };
  let x = Array(n + 1).fill(0);
  let reached = height(x, n, matches);
  for (let i = 0; i < MAX_STEPS; i++) {
    const { gradient, curvature } = derivatives(x, n, matches);
    const [step] = solved(curvature, [gradient]);
    let size = 1;
    let next = moved(x, step, size);
    let higher = height(next, n, matches);
    while (higher < reached && size > 1e-9) {
      size /= 2;
      next = moved(x, step, size);
      higher = height(next, n, matches);
    }
    x = next;
    reached = Math.max(higher, reached);
    if (Math.max(...step.map((one) => Math.abs(size * one))) < PRECISION) break;
  }
  const { curvature } = derivatives(x, n, matches);
  return { mean: x.slice(0, n), covariance: solved(curvature, identity(n + 1)) };
}

const moved = (x, step, size) => x.map((one, i) => one + size * step[i]);
const rating = (x, n, row) => (row < n ? x[row] : 0);

// The log posterior, up to a constant.
function height(x, n, matches) {
  const canTie = matches.some((match) => match.ties);
  let found = 0;
  for (const { i, j, wins, ties } of matches) {
    const half = (rating(x, n, i) - rating(x, n, j)) / 2;
    let logSum = logAddExp(half, -half);
    if (canTie) logSum = logAddExp(logSum, x[n]);
    found += (wins[0] - wins[1]) * half + ties * x[n] - (wins[0] + wins[1] + ties) * logSum;
  }
  return found - x.reduce((sum, one) => sum + one * one, 0) / 2;
}

// The gradient and the negative Hessian.
function derivatives(x, n, matches) {
  const canTie = matches.some((match) => match.ties);
  const gradient = x.map((one) => -one);
  const curvature = identity(n + 1);
  const add = (row, column, by) => {
    if (row < 0 || column < 0) return;
    curvature[row][column] += by;
  };
  for (const { i, j, wins, ties } of matches) {
    const half = (rating(x, n, i) - rating(x, n, j)) / 2;
    const total = wins[0] + wins[1] + ties;
    const tie = canTie ? sigmoid(x[n] - logAddExp(half, -half)) : 0;
    const lean = (1 - tie) * Math.tanh(half);
    const pull = (wins[0] - wins[1]) / 2 - (total * lean) / 2;
    const bend = (total * (1 - tie - lean * lean)) / 4;
    const cross = -(total * lean * tie) / 2;
    const sides = [
      [i < n ? i : -1, 1],
      [j < n ? j : -1, -1],
    ];
    for (const [row, sign] of sides) {
      if (row >= 0) gradient[row] += sign * pull;
      for (const [column, other] of sides) add(row, column, sign * other * bend);
      if (canTie) {
        add(row, n, sign * cross);
        if (row >= 0) curvature[n][row] += sign * cross;
      }
    }
    if (canTie) {
      gradient[n] += ties - total * tie;
      curvature[n][n] += total * tie * (1 - tie);
    }
  }
  return { gradient, curvature };
}

/** matrix^-1 times each of the vectors; the matrix is symmetric and positive definite. */
function solved(matrix, vectors) {
  const n = matrix.length;
  const lower = matrix.map(() => new Float64Array(n));
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let left = matrix[i][j];
      for (let k = 0; k < j; k++) left -= lower[i][k] * lower[j][k];
      lower[i][j] = i === j ? Math.sqrt(left) : left / lower[j][j];
    }
  }
  return vectors.map((vector) => {
    const found = [...vector];
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < i; k++) found[i] -= lower[i][k] * found[k];
      found[i] /= lower[i][i];
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let k = i + 1; k < n; k++) found[i] -= lower[k][i] * found[k];
      found[i] /= lower[i][i];
    }
    return found;
  });
}

function identity(n) {
  return Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => Number(i === j)));
}

function logAddExp(a, b) {
  return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
}

function sigmoid(x) {
  return Math.exp(-logAddExp(0, -x));
}
