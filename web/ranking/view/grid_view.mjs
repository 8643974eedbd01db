// Tiles as large as their place allows, with one of them in the tab order.

import { arrowTarget, bestGrid } from "../grid.mjs";
import { el } from "../../element.mjs";
import { Tile } from "./tile.mjs";

const GAP = 6;
/** Pixels of a thumbnail's longer side. */
const THUMBNAIL = 384;

export class GridView {
  /**
   * @param {(id: string) => void} onActivate a click, Enter or Space on a picture
   * @param {(id: string|null) => void} onPoint the pointer or the focus is on another picture
   * @param {number} below pixels under each picture that are not its own (buttons)
   */
  constructor({ onActivate, onPoint = () => {}, below = 0, extend = () => {} }) {
    this.tiles = [];
    this._onActivate = onActivate;
    this._onPoint = onPoint;
    this._below = below;
    this._extend = extend;
    this._columns = 1;
    this.element = el("div", { className: "dpo-grid", role: "group" });
    this.element.setAttribute("aria-label", "Images");
    this.element.addEventListener("focusin", (event) => this._pointAt(event.target, true));
    this.element.addEventListener("pointerover", (event) => this._pointAt(event.target));
    this.element.addEventListener("pointerleave", () => this._onPoint(null));
    new ResizeObserver(() => this._lay()).observe(this.element);
  }

  /** The images of another set: old tiles go, new ones come. */
  fill(images, nameOf) {
    this._aspect = middleAspect(images);
    this._tallest = Math.min(...images.map((image) => image.width / image.height));
    this.tiles = images.map((image) => {
      const tile = new Tile(image, nameOf(image.id), this._onActivate);
      this._extend(tile);
      return tile;
    });
    this.element.replaceChildren(...this.tiles.map((tile) => tile.element));
    this._tabStop = null;
    if (this.tiles.length) this._setTabStop(this.tiles[0]);
    this._lay();
  }

  _setTabStop(tile) {
    if (tile === this._tabStop) return;
    if (this._tabStop) this._tabStop.button.tabIndex = -1;
    tile.button.tabIndex = 0;
    this._tabStop = tile;
  }

  /** Only the order changes; the focus stays on its picture. */
  arrange(ids) {
    const now = this.tiles.map((tile) => tile.id);
    if (now.every((id, i) => id === ids[i])) return;
    const focused = this.focusedTile;
    const byId = new Map(this.tiles.map((tile) => [tile.id, tile]));
    this.tiles = ids.map((id) => byId.get(id));
    this.element.replaceChildren(...this.tiles.map((tile) => tile.element));
    focused?.button.focus({ preventScroll: true });
  }

  tile(id) {
    return this.tiles.find((tile) => tile.id === id);
  }

  get focusedTile() {
    return this.tiles.find((tile) => tile.element.contains(document.activeElement));
  }

  focus(id) {
    const tile = this.tile(id) ?? this._tabStop;
    tile?.button.focus({ preventScroll: true });
    tile?.element.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Arrow keys, Home and End move the focus. */
  onKey(event) {
    const at = this.tiles.indexOf(this.focusedTile);
    const last = this.tiles.length - 1;
    const to =
      at < 0 && event.key.startsWith("Arrow")
        ? 0
        : event.key === "Home"
          ? 0
          : event.key === "End"
            ? last
            : arrowTarget(at, event.key, this._columns, this.tiles.length);
    if (to === null || last < 0) return false;
    this.focus(this.tiles[to].id);
    return true;
  }

  _pointAt(target, focused = false) {
    const tile = this.tiles.find((one) => one.element.contains(target));
    if (!tile) return;
    if (focused) this._setTabStop(tile);
    this._onPoint(tile.id);
  }

  _lay() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height || !this.tiles.length) return;
    const aspect = this._aspect;
    let { columns, cell } = bestGrid(this.tiles.length, width, height, aspect, GAP);
    // No higher than the highest picture needs: what is left over stays around the grid.
    const inner = (width - GAP * (columns - 1)) / columns;
    cell = Math.min(Math.max(cell, 40 + this._below), inner / this._tallest + this._below);
    this._columns = columns;
    this.element.style.setProperty("--dpo-columns", columns);
    this.element.style.setProperty("--dpo-cell", `${cell}px`);
    if (Math.min(inner, cell) * devicePixelRatio > THUMBNAIL) {
      for (const tile of this.tiles) tile.sharpen();
    }
  }
}

function middleAspect(images) {
  const aspects = images.map((image) => image.width / image.height).sort((a, b) => a - b);
  return aspects[Math.floor(aspects.length / 2)] || 1;
}
