// The pairs that training would get, as small pictures side by side; and their badges on tiles.

import { el, setData, setHidden, setText } from "../../element.mjs";

const SHOWN = 32;

/** How a pair's badge is written on the tile of one of its images. */
export function badgeShown(badge, open = false) {
  if (!badge) return undefined;
  const [text, told] =
    badge.role === "chosen" ? ["better", "the better of"] : ["worse", "the worse of"];
  return { ...badge, open, text: `${badge.number} ${text}`, told: `${told} pair ${badge.number}` };
}

export class PairBar {
  constructor() {
    this._count = el("span", { className: "dpo-pair-count" });
    this._list = el("span", { className: "dpo-pair-list" });
    this.element = el("div", { className: "dpo-pairs" }, this._count, this._list);
    this._pairs = [];
  }

  /**
   * @param {Map<string, object>} images by id, with absolute addresses
   * @param {boolean} open whether these pairs are still to be confirmed
   * @param {string} none what to say where there is no pair
   */
  show(pairs, images, nameOf, { open, totals, none }) {
    const full = pairs.filter((pair) => pair.rejected);
    setText(this._count, open ? openText(full) : full.length ? madeText(full, totals) : none);
    setData(this.element, "open", open ? "yes" : "");
    const shown = pairs.slice(0, SHOWN);
    while (this._pairs.length < shown.length) this._grow();
    this._pairs.forEach((one, i) => this._fill(one, shown[i], i, images, nameOf));
  }

  _grow() {
    const chosen = el("img", { alt: "", draggable: false });
    const rejected = el("img", { alt: "", draggable: false });
    const element = el("span", { className: "dpo-pair", role: "img" });
    element.append(chosen, el("i", { textContent: "›", "aria-hidden": "true" }), rejected);
    this._pairs.push({ element, chosen, rejected });
    this._list.append(element);
  }

  _fill({ element, chosen, rejected }, pair, i, images, nameOf) {
    setHidden(element, !pair);
    if (!pair) return;
    setSource(chosen, images.get(pair.chosen));
    setSource(rejected, images.get(pair.rejected));
    const worse = pair.rejected ? nameOf(pair.rejected) : "not picked yet";
    const sure = pair.probability ? `, ${Math.round(100 * pair.probability)} % sure` : "";
    const told = `Pair ${i + 1}: ${nameOf(pair.chosen)} better, ${worse}${sure}`;
    if (element.title !== told) {
      element.title = told;
      element.setAttribute("aria-label", told);
    }
  }
}

const pairsText = (pairs) => (pairs.length === 1 ? "1 pair" : `${pairs.length} pairs`);

function openText(pairs) {
  return pairs.length ? `Will make ${pairsText(pairs)}` : "Will make a pair:";
}

function madeText(pairs, totals) {
  const all = totals?.pairs ? `, ${totals.pairs} in the session` : "";
  return `${pairsText(pairs)}${all}`;
}

function setSource(picture, image) {
  const url = image ? (image.thumbnail ?? image.url) : "";
  if (picture.getAttribute("src") !== url) {
    if (url) picture.src = url;
    else picture.removeAttribute("src");
    // Its place stays; a picture that had an address before would be shown as broken.
    picture.style.visibility = url ? "" : "hidden";
  }
}
