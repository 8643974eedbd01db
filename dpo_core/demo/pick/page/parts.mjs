// Small parts that several sections have.

import { el } from "./element.mjs";

export function choice(label, onclick) {
  return el("button", { type: "button", className: "choice", textContent: label, onclick });
}

export function action(label, onclick, className = "") {
  const made = { type: "button", className: `act ${className}`, textContent: label, onclick };
  return el("button", made);
}

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/**
 * Shows sets one after the other: the next that is open once one is done.
 *
 * Closed ones may be looked at and changed; nothing moves on then.
 */
export class Turner {
  /**
   * @param {() => void} onShown another set is on display
   * @param {() => void} onAllDone nothing is open any more
   */
  constructor(onShown, onAllDone) {
    this._onShown = onShown;
    this._onAllDone = onAllDone;
    this._closed = new Set();
    this._ids = [];
    this._waiting = null;
  }

  attach(widget) {
    this.widget = widget;
  }

  get current() {
    return this.widget.board.reference?.set_id;
  }

  isClosed(id) {
    return this._closed.has(id);
  }

  /** @param {{id: string, closed: boolean}[]} sets of one session, in order */
  update(session, sets) {
    this.session = session;
    this._ids = sets.map((one) => one.id);
    for (const { id, closed } of sets) {
      // What is saved by now may be newer than what was asked for before.
      if (closed) this._closed.add(id);
      else if (id !== this.current || !this.widget.board.isDone) this._closed.delete(id);
    }
    if (!this._ids.includes(this.current)) this.show(this.next ?? this._ids[0]);
    else if (this._waiting === this.current) this.goOn();
  }

  /** To the next open set, as soon as there is one. */
  goOn() {
    const { next } = this;
    this._waiting = next ? null : this.current;
    this.show(next);
  }

  get next() {
    const at = this._ids.indexOf(this.current);
    const around = [...this._ids.slice(at + 1), ...this._ids.slice(0, Math.max(at, 0))];
    return around.find((id) => !this._closed.has(id));
  }

  show(id) {
    if (!id) return;
    this._waiting = null;
    this.widget.board.show({ session: this.session, set_id: id });
    this._onShown();
  }

  /** For the widget's port, when a choice was saved. */
  saved(id) {
    const { board } = this.widget;
    if (id !== this.current) return;
    const was = this._closed.has(id);
    if (board.isDone) this._closed.add(id);
    else this._closed.delete(id);
    if (was || !board.isDone) return;
    // The person sees what was chosen, and can take it back, before it goes.
    clearTimeout(this._timer);
    this._timer = setTimeout(() => {
      if (id !== this.current || !board.isDone) return;
      this.goOn();
      if (this._waiting) this._onAllDone();
    }, 550);
  }
}
