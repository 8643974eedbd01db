// Zoom and pan, shared by pictures of any size: a view is a scale (1: the picture fills its place)
// and the point of the picture, in fractions of its sides, that is in the middle of the place.

export const FIT = { scale: 1, x: 0.5, y: 0.5 };
export const MAX_SCALE = 32;

/** Where a picture is drawn in its place: left, top, width, height in the place's pixels. */
export function placed(view, place, picture) {
  const fill = fillScale(place, picture) * view.scale;
  const [width, height] = [picture.width * fill, picture.height * fill];
  return {
    left: along(view.x, width, place.width),
    top: along(view.y, height, place.height),
    width,
    height,
  };
}

/** Up or down, whichever makes the whole picture just fit. */
export function fillScale(place, picture) {
  return Math.min(place.width / picture.width, place.height / picture.height);
}

/** Zoomed by a factor, with the point under (px, py) of the place staying where it is. */
export function zoomedAt(view, factor, px, py, place, picture) {
  const scale = Math.min(Math.max(view.scale * factor, 1), MAX_SCALE);
  if (scale === 1) return FIT;
  const before = placed(view, place, picture);
  const x = (px - before.left) / before.width;
  const y = (py - before.top) / before.height;
  const fill = fillScale(place, picture) * scale;
  return settled(
    {
      scale,
      x: x + (place.width / 2 - px) / (picture.width * fill),
      y: y + (place.height / 2 - py) / (picture.height * fill),
    },
    place,
    picture,
  );
}

/** Moved with a pointer that went (dx, dy) of the place's pixels. */
export function panned(view, dx, dy, place, picture) {
  const fill = fillScale(place, picture) * view.scale;
  return settled(
    { ...view, x: view.x - dx / (picture.width * fill), y: view.y - dy / (picture.height * fill) },
    place,
    picture,
  );
}

/** The view at which one pixel of the picture is one of the screen; `density`: of the screen. */
export function pixelForPixel(view, place, picture, density) {
  const scale = 1 / (fillScale(place, picture) * density);
  return { ...view, scale: Math.min(Math.max(scale, 1), MAX_SCALE) };
}

// The middle is kept so that the edge of the picture never leaves the edge of its place.
function settled(view, place, picture) {
  const fill = fillScale(place, picture) * view.scale;
  return {
    scale: view.scale,
    x: settledAlong(view.x, picture.width * fill, place.width),
    y: settledAlong(view.y, picture.height * fill, place.height),
  };
}

function settledAlong(middle, length, room) {
  if (length <= room) return 0.5;
  const half = room / 2 / length;
  return Math.min(Math.max(middle, half), 1 - half);
}

function along(middle, length, room) {
  if (length <= room) return (room - length) / 2;
  return Math.min(0, Math.max(room - length, room / 2 - middle * length));
}
