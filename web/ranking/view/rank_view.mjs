// Any number of the images in order: click them best first, or drag them in the strip.

import { badges } from "../pair_badge.mjs";
import {
  moved,
  orderVote,
  placedAfter,
  placedBefore,
  places,
  ranked,
  tiedWith,
  tieToggled,
  without,
} from "../rank_order.mjs";
import { button, el, setData, setHidden, setText } from "../../element.mjs";
import { GridView } from "./grid_view.mjs";
import { badgeShown } from "./pair_bar.mjs";

const DRAG_STARTS = 6;

export class RankView {
  constructor(board, update) {
    this.board = board;
    this._update = update;
    this._drag = null;
    this.grid = new GridView({ onActivate: (id) => this._toggle(id) });
    this.strip = el("div", { className: "dpo-strip", role: "list" });
    this.strip.setAttribute("aria-label", "The order so far, best first");
    this._empty = el("span", { className: "dpo-strip-empty" });
    this._empty.textContent = "Best first: click the images in order, or drag them here.";
    this._chips = new Map();
    this.save = button({
      label: "Save this order",
      text: "Save order",
      key: "S",
      className: "dpo-main",
      onclick: () => this.board.saveOrder(),
    });
    this.tools = el("div", { className: "dpo-tools" }, this.save);
    this.element = el("div", { className: "dpo-view" }, this.strip, this.grid.element);
    for (const place of [this.strip, this.grid.element]) this._listen(place);
    this.keys = [
      ["Arrows", "move between the images"],
      ["Enter", "put the image next in the order, or take it out"],
      ["1 … 9", "put the focused image in that place"],
      ["Shift + arrows", "move it up or down in the order"],
      ["T", "tie it with the one above, or part them"],
      ["Delete", "take it out of the order"],
      ["S", "save the order"],
    ];
  }

  fill(images, nameOf) {
    this._nameOf = nameOf;
    this.grid.fill(images, nameOf);
    this._chips = new Map(images.map((image) => [image.id, this._chip(image)]));
    this._laid = null;
  }

  get pairs() {
    const { order, votes } = this.board.model;
    return this.isOpen ? this.board.pairsAfter(orderVote(order, votes)) : this.board.pairs;
  }

  get _open() {
    return this.board.orderIsNew || this.board.unsaved > 0;
  }

  /** An order is on the screen that nobody has saved. */
  get isOpen() {
    return this.board.orderIsNew;
  }

  get hint() {
    const { order, ids } = this.board.model;
    const count = ranked(order).length;
    if (ids.length < 2) return "Two images or more are needed for an order.";
    if (!count) return "Click the best image, then the next best, as many as you like.";
    if (count === 1) return "Now the next best.";
    if (!this.board.orderIsNew) return this.board.doneText("or change the order");
    return `${count} of ${ids.length} in order. Save it, or go on.`;
  }

  update() {
    const { order } = this.board.model;
    const place = places(order);
    const shown = badges(this.pairs);
    for (const tile of this.grid.tiles) {
      const at = place.get(tile.id);
      tile.show({
        place: at ? String(at) : "",
        badge: badgeShown(shown.get(tile.id), this._open),
        mark: at ? "ranked" : "",
        told: at ? `place ${at}` : "not in the order",
        pressed: Boolean(at),
      });
    }
    this._layStrip(order, place, shown);
    this.save.disabled = !this.board.orderIsNew;
  }

  onKey(event) {
    const id = this._focusedId();
    const { order } = this.board.model;
    const key = event.key.toLowerCase();
    if (key === "s") return this._handled(() => this.board.saveOrder());
    const change = id && this._changeByKey(event, key, order, id);
    if (change) {
      const inStrip = this.strip.contains(document.activeElement);
      this.board.reorder(change);
      if (inStrip) this._chips.get(id)?.element.focus({ preventScroll: true });
      return true;
    }
    if (this.strip.contains(document.activeElement)) return this._walkStrip(event, order, id);
    return this.grid.onKey(event);
  }

  _changeByKey(event, key, order, id) {
    if (event.shiftKey && ["arrowleft", "arrowup"].includes(key)) return moved(order, id, -1);
    if (event.shiftKey && ["arrowright", "arrowdown"].includes(key)) return moved(order, id, 1);
    if (key === "t") return tieToggled(order, id);
    if (key === "delete") return without(order, id);
    const digit = "123456789".indexOf(event.key);
    if (digit < 0) return null;
    const rest = without(order, id);
    return placedBefore(rest, id, rest[digit]?.[0] ?? null);
  }

  _walkStrip(event, order, id) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return false;
    const all = ranked(order);
    const next = all[all.indexOf(id) + step];
    if (next) this._chips.get(next).element.focus({ preventScroll: true });
    return true;
  }

  _handled(act) {
    act();
    return true;
  }

  _focusedId() {
    const chip = [...this._chips.values()].find((one) => one.element === document.activeElement);
    return chip?.id ?? this.grid.focusedTile?.id ?? null;
  }

  _toggle(id) {
    if (this._dragged) return;
    const { order } = this.board.model;
    const isIn = ranked(order).includes(id);
    this.board.reorder(isIn ? without(order, id) : placedBefore(order, id, null));
  }

  // The strip

  _chip(image) {
    const picture = el("img", { alt: "", draggable: false, src: image.thumbnail ?? image.url });
    const place = el("span", { className: "dpo-place" });
    const element = el("button", { type: "button", className: "dpo-chip" }, picture, place);
    element.dataset.image = image.id;
    element.addEventListener("click", () => element.focus({ preventScroll: true }));
    return { id: image.id, element, place };
  }

  _layStrip(order, place, shown) {
    const laid = JSON.stringify(order);
    if (laid !== this._laid) {
      this._laid = laid;
      const focused = document.activeElement;
      const chips = ranked(order).map((id) => this._chips.get(id).element);
      this.strip.replaceChildren(...(chips.length ? chips : [this._empty]));
      if (chips.includes(focused)) focused.focus({ preventScroll: true });
    }
    for (const tied of order) {
      tied.forEach((id, i) => {
        const chip = this._chips.get(id);
        const text = String(place.get(id));
        setText(chip.place, text);
        setData(chip.element, "tied", tied.length > 1 ? (i ? "with" : "first") : "");
        setData(chip.element, "role", shown.get(id)?.role);
        const tie = tied.length > 1 ? ", tied" : "";
        chip.element.setAttribute("aria-label", `${this._nameOf(id)}, place ${text}${tie}`);
      });
    }
  }

  // Dragging: from the grid or the strip, into the strip

  _listen(place) {
    place.addEventListener("pointerdown", (event) => this._press(event));
    place.addEventListener("pointermove", (event) => this._move(event));
    place.addEventListener("pointerup", (event) => this._release(event, true));
    place.addEventListener("pointercancel", (event) => this._release(event, false));
    // The click that ends a drag is no click on the picture.
    place.addEventListener("click", (event) => this._dragged && event.stopPropagation(), true);
  }

  _press(event) {
    const holder = event.target.closest?.("[data-image]");
    this._dragged = false;
    if (event.button !== 0 || !holder) return;
    const { clientX, clientY } = event;
    this._drag = { id: holder.dataset.image, holder, clientX, clientY, ghost: null };
  }

  _move(event) {
    const drag = this._drag;
    if (!drag) return;
    const far = Math.hypot(event.clientX - drag.clientX, event.clientY - drag.clientY);
    if (!drag.ghost && far < DRAG_STARTS) return;
    if (!drag.ghost) {
      this._dragged = true;
      event.currentTarget.setPointerCapture(event.pointerId);
      drag.ghost = drag.holder.querySelector("img").cloneNode();
      drag.ghost.className = "dpo-ghost";
      this.element.append(drag.ghost);
    }
    const at = this._inside(event);
    drag.ghost.style.transform = `translate(${at.x}px, ${at.y}px)`;
    this._aim(event);
  }

  _release(event, counts) {
    const drag = this._drag;
    this._drag = null;
    if (!drag?.ghost) return;
    drag.ghost.remove();
    const aim = counts ? this._aim(event, drag.id) : null;
    this._mark(null);
    if (aim) this.board.reorder(this._dropped(drag.id, aim));
    // After the click that follows this release.
    setTimeout(() => (this._dragged = false));
  }

  _dropped(id, { target, where }) {
    const { order } = this.board.model;
    if (target === null) return placedBefore(order, id, null);
    if (where === "tie") return tiedWith(order, id, target);
    return where === "before" ? placedBefore(order, id, target) : placedAfter(order, id, target);
  }

  // What is under the pointer: a chip's edges mean before and after, its middle a tie.
  _aim(event) {
    const { clientX: x, clientY: y } = event;
    const box = this.strip.getBoundingClientRect();
    if (x < box.left || x > box.right || y < box.top || y > box.bottom) return this._mark(null);
    for (const tied of this.board.model.order) {
      for (const id of tied) {
        const chip = this._chips.get(id).element;
        const over = chip.getBoundingClientRect();
        if (x < over.left || x > over.right || y < over.top || y > over.bottom) continue;
        const part = (x - over.left) / over.width;
        const where = part < 0.3 ? "before" : part > 0.7 ? "after" : "tie";
        return this._mark({ target: id, where });
      }
    }
    return this._mark({ target: null, where: "end" });
  }

  _mark(aim) {
    for (const { id, element } of this._chips.values()) {
      setData(element, "aim", aim && aim.target === id ? aim.where : "");
    }
    setData(this.strip, "aim", aim && aim.target === null ? "end" : "");
    return aim;
  }

  // The node may be drawn at any scale: screen pixels are not the element's own.
  _inside(event) {
    const box = this.element.getBoundingClientRect();
    const scale = box.width / this.element.offsetWidth || 1;
    return { x: (event.clientX - box.left) / scale, y: (event.clientY - box.top) / scale };
  }
}
