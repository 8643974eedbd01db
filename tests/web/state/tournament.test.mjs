import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { draw } from "../../../web/ranking/random_source.mjs";
import { reduce, replayed, resumed, start } from "../../../web/ranking/tournament.mjs";

const file = new URL("../../ranking/vectors/tournament.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8"));

test("numbers are those that Python draws", () => {
  assert.ok(vectors.numbers.length > 0);
  for (const { seed, numbers } of vectors.numbers) {
    let state = seed;
    for (const expected of numbers) {
      let number;
      [number, state] = draw(state);
      assert.equal(number, expected);
    }
  }
});

test("every step of a tournament leads to the state that Python reaches", () => {
  assert.ok(vectors.tournaments.length > 0);
  for (const { n, seed, steps, history } of vectors.tournaments) {
    let state = start(n, seed);
    for (const { event, state: expected } of steps) {
      if (event) state = reduce(state, event);
      const { history: _, ...shown } = state;
      assert.deepEqual(shown, expected);
    }
    assert.deepEqual(state.history, history);
  }
});

test("stored results resume at the state that Python resumes at", () => {
  assert.ok(vectors.resumes.length > 0);
  for (const { n, seed, events, state } of vectors.resumes) {
    assert.deepEqual(resumed(n, seed, events), state);
  }
});

test("a tournament of 64 images ends where Python's ends", () => {
  assert.ok(vectors.large.length > 0);
  for (const { n, seed, state } of vectors.large) {
    assert.deepEqual(replayed(n, seed, state.history), state);
  }
});

test("fewer than two images are refused", () => {
  assert.throws(() => start(1, 0), RangeError);
});
