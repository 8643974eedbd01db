// How many columns make n pictures largest in a place.

/**
 * @param {number} aspect width / height of a typical picture
 * @param {number} gap between cells, in pixels
 * @param {number} least height of a cell below which the place scrolls
 * @returns {{columns: number, cell: number}} `cell`: the height of a row, in pixels
 */
export function bestGrid(n, width, height, aspect, gap = 6, least = 72) {
  let best = { columns: 1, cell: 0, area: -1 };
  for (let columns = 1; columns <= n; columns++) {
    const rows = Math.ceil(n / columns);
    const cellWidth = (width - gap * (columns - 1)) / columns;
    const cellHeight = (height - gap * (rows - 1)) / rows;
    if (cellWidth <= 0) break;
    const shown = Math.min(cellHeight, cellWidth / aspect);
    const area = shown * shown * aspect;
    if (shown > 0 && area > best.area) best = { columns, cell: cellHeight, area };
  }
  if (best.cell >= least) return { columns: best.columns, cell: Math.floor(best.cell) };
  const columns = Math.max(1, Math.floor((width + gap) / (least * aspect + gap)));
  const used = Math.min(columns, n);
  return { columns: used, cell: Math.floor((width - gap * (used - 1)) / used / aspect) };
}

/** The place in the grid that an arrow key leads to. */
export function arrowTarget(at, key, columns, n) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (step === undefined) return null;
  const to = at + step;
  return to >= 0 && to < n ? to : at;
}
