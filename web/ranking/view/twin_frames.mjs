// Two pictures side by side under one zoom and pan.

import { FIT, panned, pixelForPixel, placed, zoomedAt } from "../zoom.mjs";
import { button, el, setHidden, setText } from "../../element.mjs";

const STEP = 1.25;
const CLICK_MOVES = 5;
/** How far the picture moves with each key, in parts of its place. */
const KEY_PANS = {
  ArrowLeft: [0.15, 0],
  ArrowRight: [-0.15, 0],
  ArrowUp: [0, 0.15],
  ArrowDown: [0, -0.15],
};

export class TwinFrames {
  /**
   * @param {(side: "left"|"right") => void} onChoose a click on a picture
   * @param {(side: string, name: string) => string} labelOf what a picture's button is called
   */
  constructor(onChoose, labelOf = betterLabel) {
    this._onChoose = onChoose;
    this.labelOf = labelOf;
    this._view = FIT;
    this.frames = ["left", "right"].map((side) => new Frame(side, this));
    const zoom = (label, sign, key, act) => button({ label, sign, key, onclick: act });
    this._zoom = el(
      "div",
      { className: "dpo-zoom", role: "group" },
      zoom("Zoom out", "out", "−", () => this._zoomBy(1 / STEP)),
      zoom("Whole image", "fit", "0", () => this._setView(FIT)),
      zoom("Zoom in", "in", "+", () => this._zoomBy(STEP)),
    );
    this._zoom.setAttribute("aria-label", "Zoom");
    this.element = el(
      "div",
      { className: "dpo-twins" },
      ...this.frames.map((frame) => frame.element),
      this._zoom,
    );
    new ResizeObserver(() => this._draw()).observe(this.element);
  }

  /** Asks for every picture, so that the next match is there when its turn comes. */
  fill(images) {
    this._ahead = images.map((image) => {
      const picture = new Image();
      picture.src = image.url;
      return picture;
    });
    this._setView(FIT);
  }

  show(left, right, nameOf = () => "") {
    const changed = this.frames[0].image !== left || this.frames[1].image !== right;
    this.frames[0].show(left, nameOf);
    this.frames[1].show(right, nameOf);
    if (changed) this._setView(FIT);
  }

  onKey(event) {
    const factor = { "+": STEP, "=": STEP, "-": 1 / STEP, "−": 1 / STEP }[event.key];
    if (factor) this._zoomBy(factor);
    else if (event.key === "0") this._setView(FIT);
    else if (event.key === "1") this._pixels();
    else return event.shiftKey && this._panByKey(event.key);
    return true;
  }

  _panByKey(key) {
    if (!KEY_PANS[key]) return false;
    const [dx, dy] = KEY_PANS[key];
    const [frame] = this.frames;
    this.panBy(frame, dx * frame.place.width, dy * frame.place.height);
    return true;
  }

  choose(side) {
    this._onChoose(side);
  }

  zoomAt(frame, factor, px, py) {
    if (!frame.image) return;
    this._setView(zoomedAt(this._view, factor, px, py, frame.place, frame.image));
  }

  panBy(frame, dx, dy) {
    if (frame.image) this._setView(panned(this._view, dx, dy, frame.place, frame.image));
  }

  get zoomed() {
    return this._view.scale > 1;
  }

  _zoomBy(factor) {
    const [frame] = this.frames;
    this.zoomAt(frame, factor, frame.place.width / 2, frame.place.height / 2);
  }

  _pixels() {
    const [frame] = this.frames;
    if (!frame.image) return;
    this._setView(pixelForPixel(this._view, frame.place, frame.image, devicePixelRatio));
  }

  _setView(view) {
    this._view = view;
    this._draw();
  }

  _draw() {
    for (const frame of this.frames) frame.draw(this._view);
    this.element.classList.toggle("dpo-zoomed", this.zoomed);
  }
}

function betterLabel(side, name) {
  return `${side === "left" ? "Left" : "Right"}: ${name} is better`;
}

class Frame {
  constructor(side, twins) {
    this.side = side;
    this.image = null;
    this.place = { width: 1, height: 1 };
    this._twins = twins;
    this._picture = el("img", { alt: "", draggable: false });
    this._gone = el("span", { className: "dpo-gone", hidden: true });
    setText(this._gone, "This image cannot be loaded. Click to try again, or go on without it.");
    this._picture.addEventListener("error", () => this._setBroken(true));
    this._picture.addEventListener("load", () => this._setBroken(false));
    this.element = el(
      "button",
      { type: "button", className: "dpo-frame", dataset: { side } },
      this._picture,
      this._gone,
    );
    this._listen();
  }

  show(image, nameOf) {
    if (this.image === image) return;
    this.image = image;
    this._picture.src = image.url;
    this.element.setAttribute("aria-label", this._twins.labelOf(this.side, nameOf(image.id)));
  }

  draw(view) {
    this.place = { width: this.element.clientWidth || 1, height: this.element.clientHeight || 1 };
    if (!this.image) return;
    const { left, top, width, height } = placed(view, this.place, this.image);
    const { style } = this._picture;
    style.width = `${this.image.width}px`;
    style.height = `${this.image.height}px`;
    const [sx, sy] = [width / this.image.width, height / this.image.height];
    style.transform = `translate(${left}px, ${top}px) scale(${sx}, ${sy})`;
    // Above its own pixels a picture shows them, as they are what is judged.
    style.imageRendering = sx * devicePixelRatio > 3 ? "pixelated" : "auto";
  }

  _setBroken(broken) {
    this._broken = broken;
    setHidden(this._gone, !broken);
    setHidden(this._picture, broken);
  }

  _listen() {
    let press = null;
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      press = { x: event.clientX, y: event.clientY, moved: 0 };
      this.element.setPointerCapture(event.pointerId);
    });
    this.element.addEventListener("pointermove", (event) => {
      if (!press) return;
      const [dx, dy] = [event.clientX - press.x, event.clientY - press.y];
      press = { x: event.clientX, y: event.clientY, moved: press.moved + Math.hypot(dx, dy) };
      const scale = this._scale();
      if (this._twins.zoomed) this._twins.panBy(this, dx / scale, dy / scale);
    });
    this.element.addEventListener("click", (event) => {
      const dragged = press && press.moved > CLICK_MOVES && this._twins.zoomed;
      press = null;
      if (dragged) event.preventDefault();
      else if (this._broken) this._picture.src = this.image.url;
      else this._twins.choose(this.side);
    });
    this.element.addEventListener("pointercancel", () => (press = null));
    this.element.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
  }

  // On a node the wheel zooms the graph, as everywhere, until the pictures are zoomed.
  _wheel(event) {
    const isFull = this.element.closest("dialog") !== null;
    if (!isFull && !this._twins.zoomed && !event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const box = this.element.getBoundingClientRect();
    const scale = this._scale();
    const [px, py] = [(event.clientX - box.left) / scale, (event.clientY - box.top) / scale];
    this._twins.zoomAt(this, Math.exp(-event.deltaY / 400), px, py);
  }

  _scale() {
    return this.element.getBoundingClientRect().width / this.element.offsetWidth || 1;
  }
}
