// What the votes on a set say, as dpo_core/ranking/judgement.py reads them: outcomes to rate by,
// direct picks, labels.

import { ANCHOR } from "./ratings.mjs";

/**
 * @param {string[]} images ids of the set
 * @param {object[]} votes those that count, oldest first
 * @returns {{outcomes: object[], picks: object[], labels: Map<string, string>,
 *   compared: string[], isRemoved: (one: string, other: string) => boolean}}
 *   `compared`: images that were compared to another, in the set's order; `isRemoved`: of two that
 *   shall make no pair
 */
export function judge(images, votes) {
  const judged = new Judge(images);
  for (const vote of votes) judged.take(vote);
  return judged.judgement();
}

const two = (one, other) => (one < other ? `${one} ${other}` : `${other} ${one}`);

class Judge {
  constructor(images) {
    this.images = images;
    this.outcomes = [];
    this.picks = new Map();
    this.tied = new Map();
    this.removed = new Set();
    this.labels = new Map();
    this.thumbs = new Map();
  }

  take(vote) {
    if (vote.kind === "best_worst") this._bestWorst(vote);
    else if (vote.kind === "ranking") this._ranking(vote.order);
    else if (vote.kind === "comparison") this._comparison(vote);
    else if (vote.kind === "swap") this._swap(vote);
    else if (vote.kind === "remove") this.removed.add(two(...vote.images));
    else if (vote.kind === "thumbs") {
      for (const [image, label] of Object.entries(vote.labels)) {
        this.thumbs.set(image, label);
        this.labels.set(image, label);
      }
    }
  }

  judgement() {
    const outcomes = [...this.outcomes];
    for (const [image, label] of this.thumbs) {
      if (label === "good") outcomes.push({ winner: image, loser: ANCHOR });
      if (label === "bad") outcomes.push({ winner: ANCHOR, loser: image });
    }
    const labels = new Map([...this.labels].filter(([, label]) => label !== "none"));
    const picks = [...this.picks.values(), ...this._labelPicks(labels)];
    const seen = new Set(picks.flatMap((pick) => [pick.winner, pick.loser]));
    for (const { winner, loser } of outcomes) {
      if (winner !== ANCHOR && loser !== ANCHOR) seen.add(winner).add(loser);
    }
    const compared = this.images.filter((image) => seen.has(image));
    const isRemoved = (one, other) => this.removed.has(two(one, other));
    return { outcomes, picks, labels, compared, isRemoved };
  }

  _labelPicks(labels) {
    const marked = (label) => this.images.filter((image) => labels.get(image) === label);
    const bad = marked("bad");
    const said = (one, other) => this.picks.has(two(one, other)) || this.tied.has(two(one, other));
    return marked("good").flatMap((winner) =>
      bad
        .filter((loser) => !said(winner, loser))
        .map((loser) => ({ winner, loser, designated: false })),
    );
  }

  _bestWorst({ best, worst, among }) {
    const between = (among?.length ? among : this.images).filter(
      (image) => image !== best && image !== worst,
    );
    for (const image of between) {
      this.outcomes.push({ winner: best, loser: image }, { winner: image, loser: worst });
    }
    this.outcomes.push({ winner: best, loser: worst });
    this._pick(best, worst, true);
  }

  _ranking(order) {
    order.forEach((tied, place) => {
      const below = order.slice(place + 1).flat();
      tied.forEach((image, i) => {
        for (const other of tied.slice(i + 1)) this._tie(image, other);
        for (const other of below) {
          this.outcomes.push({ winner: image, loser: other });
          this._pick(image, other);
        }
      });
    });
  }

  _comparison({ left, right, result }) {
    if (result === "tie") {
      this._tie(left, right);
    } else if (result === "both_bad") {
      for (const image of [left, right]) {
        this.outcomes.push({ winner: ANCHOR, loser: image });
        this.labels.set(image, "bad");
      }
    } else if (result !== "skip") {
      const [winner, loser] = result === "left" ? [left, right] : [right, left];
      this.outcomes.push({ winner, loser });
      this._pick(winner, loser);
    }
  }

  // The two change places with all that was said of them.
  _swap({ up, down }) {
    const other = (image) => (image === up ? down : image === down ? up : image);
    this.outcomes = this.outcomes.map(({ winner, loser, tie }) => ({
      winner: other(winner),
      loser: other(loser),
      tie,
    }));
    const named = this.picks.get(two(up, down))?.designated;
    const touched = (images) => images.includes(up) || images.includes(down);
    for (const [key, { winner, loser }] of this.picks) {
      if (touched([winner, loser])) this.picks.delete(key);
    }
    for (const [key, images] of this.tied) if (touched(images)) this.tied.delete(key);
    this._pick(up, down, named);
  }

  _tie(one, other) {
    this.outcomes.push({ winner: one, loser: other, tie: true });
    this.picks.delete(two(one, other));
    this.removed.delete(two(one, other));
    this.tied.set(two(one, other), [one, other]);
  }

  _pick(winner, loser, designated = false) {
    const key = two(winner, loser);
    const before = this.picks.get(key);
    this.tied.delete(key);
    this.removed.delete(key);
    this.picks.delete(key);
    const named = designated || (before?.designated && before.winner === winner);
    this.picks.set(key, { winner, loser, designated: Boolean(named) });
  }
}
