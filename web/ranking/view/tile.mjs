// One image of a grid: a button with the picture, its number, its place and its pair.

import { el, setData, setText } from "../../element.mjs";

export class Tile {
  /**
   * @param {{id: string, url: string}} image with absolute addresses
   * @param {string} name "Image 3"
   */
  constructor(image, name, onActivate) {
    this.id = image.id;
    this.name = name;
    this.broken = false;
    this._full = image.url;
    this._url = image.thumbnail ?? image.url;
    this.picture = el("img", { alt: "", draggable: false, decoding: "async" });
    this.picture.addEventListener("error", () => {
      if (this._url === this._full) this._setBroken(true);
      else this._showFull();
    });
    this.picture.addEventListener("load", () => this._setBroken(false));
    this.place = el("span", { className: "dpo-place" });
    this.badge = el("span", { className: "dpo-badge" });
    this.gone = el("span", {
      className: "dpo-gone",
      textContent: "This image cannot be loaded. Click to try again.",
    });
    this.button = el(
      "button",
      { type: "button", className: "dpo-picture", tabIndex: -1 },
      this.picture,
      this.gone,
    );
    this.button.addEventListener("click", () => {
      this.button.focus({ preventScroll: true });
      if (this.broken) this.reload();
      else onActivate(this.id);
    });
    this.element = el("div", { className: "dpo-tile", dataset: { image: image.id } });
    this.element.append(this.button, this.place, this.badge);
    this.picture.src = this._url;
  }

  reload() {
    this.picture.src = "";
    this.picture.src = this._url;
  }

  /** The picture itself where its thumbnail would be blurred; swapped in when it is there. */
  sharpen() {
    if (this._url === this._full || this._ahead) return;
    this._ahead = new Image();
    this._ahead.addEventListener("load", () => this._showFull());
    this._ahead.src = this._full;
  }

  _showFull() {
    this._url = this._full;
    this.picture.src = this._full;
    this._ahead = null;
  }

  _setBroken(broken) {
    this.broken = broken;
    setData(this.element, "broken", broken ? "yes" : "");
  }

  /**
   * @param {string} place what stands in the corner
   * @param {{number: number, role: string, text: string}|undefined} badge of its pair
   * @param {string} mark picked, out, good, bad or ""
   */
  show({ place = "", badge, mark = "", told = "", pressed = false }) {
    // Of many tiles few change with a click: the others are not touched.
    const shown = [place, badge?.text, badge?.role, badge?.open, badge?.told, mark, told, pressed];
    const text = shown.join("\n");
    if (text === this._shown) return;
    this._shown = text;
    setText(this.place, place);
    setText(this.badge, badge?.text ?? "");
    setData(this.badge, "role", badge?.role);
    setData(this.badge, "open", badge?.open ? "yes" : "");
    setData(this.element, "mark", mark);
    const label = [this.name, told, badge?.told].filter(Boolean).join(", ");
    if (this.button.getAttribute("aria-label") !== label) {
      this.button.setAttribute("aria-label", label);
      this.button.setAttribute("aria-pressed", String(pressed));
    }
  }
}
