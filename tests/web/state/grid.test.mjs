import assert from "node:assert/strict";
import { test } from "node:test";

import { arrowTarget, bestGrid } from "../../../web/ranking/grid.mjs";

test("columns are chosen so that pictures are largest", () => {
  assert.equal(bestGrid(4, 400, 400, 1, 0).columns, 2);
  assert.equal(bestGrid(4, 800, 200, 1, 0).columns, 4);
  assert.equal(bestGrid(4, 200, 800, 1, 0).columns, 1);
  assert.equal(bestGrid(2, 400, 400, 2, 0).columns, 1);
});

test("where cells would get too small the place scrolls instead", () => {
  const { columns, cell } = bestGrid(64, 300, 200, 1, 6, 84);
  assert.equal(columns, 3);
  assert.ok(cell >= 84);
});

test("arrows move by a picture or a row and stop at the ends", () => {
  assert.equal(arrowTarget(4, "ArrowUp", 3, 7), 1);
  assert.equal(arrowTarget(4, "ArrowRight", 3, 7), 5);
  assert.equal(arrowTarget(5, "ArrowDown", 3, 7), 5);
  assert.equal(arrowTarget(0, "ArrowLeft", 3, 7), 0);
  assert.equal(arrowTarget(0, "x", 3, 7), null);
});
