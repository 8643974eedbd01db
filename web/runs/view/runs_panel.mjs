// The list of all runs, and one of them in full in its place.

import { button, el, setHidden, setText } from "../../element.mjs";
import { RunList } from "../run_list.mjs";
import { bytes, counted, STATUSES } from "../words.mjs";
import { askToDelete } from "./delete_dialog.mjs";
import { RunDetail } from "./run_detail.mjs";
import { RunRow } from "./run_row.mjs";
import { SPARK_ROWS, sparkline } from "./sparkline.mjs";

/** Seconds between looks at runs that another tab trains. */
const LOOK = 10;
const HANDLED = new Set(["Enter", " ", "Delete", "Backspace", "ArrowUp", "ArrowDown", "Home", "End"]);

/**
 * @param port {get(path), post(path, body), imageUrl(url), copy(text) => Promise<boolean>,
 *   loadSettings(detail) => {summary, lines}, now() => seconds, later(seconds, call) => cancel,
 *   host() => the element that dialogs are put into}
 */
export class RunsPanel {
  constructor(port) {
    this.port = port;
    this.list = new RunList();
    this.rows = new Map();
    this._inView = new Set();
    this.detail = new RunDetail(port, {
      back: () => this.showList(),
      open: (id) => this.open(id),
      remove: (detail) => this._remove(detail),
      list: () => this.list.runs,
    });
    this._build();
    this._watcher = new IntersectionObserver((entries) => this._seen(entries));
  }

  _build() {
    this._search = el("input", {
      type: "search",
      className: "dpo-runs-field",
      placeholder: "Search runs",
      oninput: () => this._filter(),
    });
    this._search.setAttribute("aria-label", "Search runs by name, model or loss");
    this._status = el(
      "select",
      { className: "dpo-runs-field", onchange: () => this._filter() },
      el("option", { value: "", textContent: "All" }),
      ...Object.entries(STATUSES).map(([value, [word]]) => el("option", { value, textContent: word })),
    );
    this._status.setAttribute("aria-label", "Show runs of one status");
    const again = button({ label: "Read the list again", sign: "redo", onclick: () => this.refresh() });
    this._total = el("p", { className: "dpo-run-dim", role: "status" });
    this._empty = el("p", { className: "dpo-runs-empty" });
    this._items = el("ul", { className: "dpo-runs-items" });
    this._items.setAttribute("aria-label", "Runs");
    this._items.addEventListener("keydown", (event) => this._move(event));
    this._listView = el(
      "div",
      { className: "dpo-runs-list" },
      el("div", { className: "dpo-runs-tools" }, this._search, this._status, again),
      this._total,
      this._empty,
      this._items,
    );
    setHidden(this.detail.element, true);
    this.element = el("div", { className: "dpo dpo-runs" }, this._listView, this.detail.element);
    // The page's own keys would act on the graph.
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.detail.element.hidden) {
        event.stopPropagation();
        this.showList();
      } else if (HANDLED.has(event.key) && !event.ctrlKey && !event.metaKey) event.stopPropagation();
    });
  }

  /** The panel has been put on the page. */
  shown() {
    this.visible = true;
    this.changed();
  }

  /** It has been taken off. */
  gone() {
    this.visible = false;
    this._stopLooking?.();
    this._stopLooking = null;
  }

  async refresh() {
    if (this._asking) {
      this._askAgain = true;
      return;
    }
    this._asking = true;
    const { status, body } = await this.port.get("/dpo/runs");
    this._asking = false;
    if (status === 200) this.list.take(body);
    else this.list.fail(body?.error ?? "The runs could not be read. Is ComfyUI still running?");
    this._show();
    for (const id of this._inView) this._picture(id);
    this._look();
    if (this._askAgain) {
      this._askAgain = false;
      this.refresh();
    }
  }

  /** Again in a while, as long as something is trained that no event may tell of. */
  _look() {
    this._stopLooking?.();
    this._stopLooking = null;
    if (!this.visible || !this.list.isRunning) return;
    this._stopLooking = this.port.later(LOOK, () => this.refresh());
  }

  /** An event of a training: {run, rows, step, target, done}. */
  follow(told) {
    const ask = this.list.follow(told, this.port.now());
    if (!this.visible) return;
    this._show();
    this.detail.follow(this.list.get(told.run), told);
    if (ask) this.refresh();
  }

  /** A training may have begun or ended. */
  changed() {
    if (!this.visible) return;
    this.refresh();
    if (!this.detail.element.hidden) this.detail.refresh();
  }

  _filter() {
    this.list.search = this._search.value;
    this.list.status = this._status.value;
    this._show();
  }

  _show() {
    const { shown, runs, loaded, error } = this.list;
    const now = this.port.now();
    for (const run of shown) {
      let row = this.rows.get(run.id);
      if (!row) {
        row = new RunRow(run.id, (id) => this.open(id));
        this.rows.set(run.id, row);
        this._watcher.observe(row.element);
      }
      row.show(run, now);
    }
    this._arrange(shown.map((run) => this.rows.get(run.id).element));
    for (const [id, row] of this.rows) {
      if (this.list.get(id)) continue;
      this._watcher.unobserve(row.element);
      this._inView.delete(id);
      this.rows.delete(id);
    }
    setText(this._total, runs.length ? `${counted(runs.length, "run")}, ${bytes(this.list.bytes)} on the disk` : "");
    setText(this._empty, this._why(loaded, error, runs.length, shown.length));
    setHidden(this._empty, !this._empty.textContent);
  }

  _why(loaded, error, all, shown) {
    if (error) return error;
    if (!loaded) return "Reading the runs…";
    if (!all) return "No training yet. What Train Steps (DPO) trains is kept here, with curves, settings and LoRAs.";
    return shown ? "" : "No run matches this search.";
  }

  // In place, so that focus and scroll stay where they are.
  _arrange(elements) {
    const here = [...this._items.children];
    if (here.length === elements.length && here.every((one, i) => one === elements[i])) return;
    const focused = this._items.contains(document.activeElement) ? document.activeElement : null;
    this._items.replaceChildren(...elements);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
  }

  _move(event) {
    const buttons = [...this._items.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, to))].focus();
  }

  // Pictures of those in view only: there may be hundreds.

  _seen(entries) {
    for (const { isIntersecting, target } of entries) {
      const id = target.firstChild.dataset.run;
      if (isIntersecting) this._inView.add(id);
      else this._inView.delete(id);
      if (isIntersecting) this._picture(id);
    }
  }

  async _picture(id) {
    const [run, row] = [this.list.get(id), this.rows.get(id)];
    if (!run || !row) return;
    const key = run.thumbnail ?? `${run.step}/${run.last_step}`;
    if (row.pictured === key || row.asking) return;
    if (run.thumbnail) {
      row.picture(key, el("img", { src: this.port.imageUrl(run.thumbnail), alt: "", loading: "lazy" }));
      return;
    }
    row.asking = true;
    const { status, body } = await this.port.get(`/dpo/runs/${id}/metrics?most=${SPARK_ROWS}`);
    row.asking = false;
    row.picture(key, status === 200 ? sparkline(body.rows) : null);
  }

  // One run

  async open(id) {
    const run = this.list.get(id);
    if (!run) return;
    this._scroll = this.element.scrollTop;
    setHidden(this._listView, true);
    setHidden(this.detail.element, false);
    this.element.scrollTop = 0;
    await this.detail.open(run);
  }

  showList(focus = this.detail.id) {
    setHidden(this.detail.element, true);
    setHidden(this._listView, false);
    this.element.scrollTop = this._scroll ?? 0;
    this.rows.get(focus)?.button.focus({ preventScroll: true });
  }

  async _remove(detail) {
    if (!detail || !(await askToDelete(detail, this.port, (id) => this.detail.named(id)))) return;
    const next = this.list.neighbour(detail.id);
    this.list.drop(detail.id);
    this._show();
    this.showList(next);
    this.refresh();
  }
}
