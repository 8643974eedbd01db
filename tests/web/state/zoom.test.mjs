import assert from "node:assert/strict";
import { test } from "node:test";

import { FIT, panned, pixelForPixel, placed, zoomedAt } from "../../../web/ranking/zoom.mjs";

const place = { width: 200, height: 100 };
const near = (found, wanted) => assert.ok(Math.abs(found - wanted) < 1e-9, `${found} ${wanted}`);

test("a large picture is scaled down and a small one up to fill its place", () => {
  const box = { left: 50, top: 0, width: 100, height: 100 };
  assert.deepEqual(placed(FIT, place, { width: 1000, height: 1000 }), box);
  assert.deepEqual(placed(FIT, place, { width: 10, height: 10 }), box);
});

test("what is under the pointer stays there", () => {
  const picture = { width: 400, height: 200 };
  const view = zoomedAt(FIT, 4, 150, 75, place, picture);
  const box = placed(view, place, picture);
  near((150 - box.left) / box.width, 0.75);
  near((75 - box.top) / box.height, 0.75);
});

test("both sides show the same part, whatever their sizes", () => {
  const view = zoomedAt(FIT, 3, 60, 30, place, { width: 400, height: 200 });
  const large = placed(view, place, { width: 800, height: 400 });
  const small = placed(view, place, { width: 20, height: 10 });
  for (const side of ["left", "top", "width", "height"]) near(small[side], large[side]);
});

test("zooming out ends with the whole picture in the middle", () => {
  const zoomed = zoomedAt(FIT, 3, 10, 10, place, { width: 400, height: 200 });
  assert.deepEqual(zoomedAt(zoomed, 0.01, 0, 0, place, { width: 400, height: 200 }), FIT);
});

test("a picture can be dragged to its edge and not beyond", () => {
  const picture = { width: 400, height: 200 };
  const zoomed = zoomedAt(FIT, 2, 100, 50, place, picture);
  const box = placed(panned(zoomed, 9999, 9999, place, picture), place, picture);
  near(box.left, 0);
  near(box.top, 0);
  const other = placed(panned(zoomed, -9999, -9999, place, picture), place, picture);
  near(other.left + other.width, place.width);
  near(other.top + other.height, place.height);
});

test("at pixel for pixel a picture has its own size on the screen", () => {
  const picture = { width: 1000, height: 500 };
  near(placed(pixelForPixel(FIT, place, picture, 1), place, picture).width, 1000);
  near(placed(pixelForPixel(FIT, place, picture, 2), place, picture).width, 500);
});
