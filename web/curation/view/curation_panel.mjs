// The curation panel: a folder of images becomes groups, and groups become choices in a session.

import { button, el, icon, setHidden, setText } from "../../element.mjs";
import { Desk } from "../desk.mjs";
import { Review } from "../review.mjs";
import { counted } from "../words.mjs";
import { GroupList } from "./group_list.mjs";
import { RankDesk } from "./rank_desk.mjs";
import { ReviewView } from "./review_view.mjs";
import { StartView } from "./start_view.mjs";

const VIEWS = { rank: "Rank", groups: "Groups", session: "Session pairs", pairs: "Folder pairs" };
/** Those that need a folder. */
const OF_FOLDER = ["rank", "groups", "pairs"];

export class CurationPanel {
  /** @param port of `Desk` but for show and isDone, and imageUrl(url), host() of dialogs */
  constructor(port, newId) {
    this._port = port;
    this._rank = new RankDesk(port, newId, { isFull: () => this._dialog.open, toggle: () => this.toggleFull() });
    this.desk = new Desk(
      {
        ...port,
        show: (reference) => this._rank.show(reference),
        isDone: () => this._rank.isDone(),
      },
      newId,
      () => this._update(),
    );
    this._rank.attach(this.desk);
    this._start = new StartView(this.desk, () => this._turn("session"));
    this._groups = new GroupList(this.desk, port.imageUrl, (group) => this._open(group));
    this.review = new Review(port, newId, () => this._update(), () => Date.now() / 1000);
    this._review = new ReviewView(this.review, port.imageUrl, port.host);
    this._view = "rank";
    this._build();
    this._update();
  }

  _build() {
    this._leave = button({ label: "Another folder or session", sign: "older", className: "dpo-quiet", onclick: () => this._goBack() });
    this._folder = el("span", { className: "dpo-curation-folder", dir: "ltr" });
    this._full = button({ label: "Full screen", sign: "full", className: "dpo-quiet", onclick: () => this.toggleFull() });
    this._bar = el("span", { className: "dpo-curation-bar", ariaHidden: "true" }, el("span"));
    this._progress = el("p", { className: "dpo-curation-dim", role: "status" });
    this._scan = el("p", { className: "dpo-curation-dim" });
    this._stop = button({ label: "Stop looking through the folder", text: "Stop", onclick: () => this.desk.stop() });
    this._again = button({ label: "Look through the folder again", sign: "redo", className: "dpo-quiet", onclick: () => this.desk.look({ scan: this.desk.scan.scan }) });
    this._problem = el("p", { className: "dpo-curation-problem", role: "alert" });
    this._tabs = Object.entries(VIEWS).map(([name, text]) =>
      button({ label: text, text, onclick: () => this._turn(name) }),
    );
    const tabs = el("div", { className: "dpo-curation-tabs", role: "group", ariaLabel: "View" }, ...this._tabs);
    this._state = el(
      "div",
      { className: "dpo-curation-state" },
      this._progress,
      this._bar,
      this._scan,
      this._stop,
      this._again,
    );
    this._work = el(
      "div",
      { className: "dpo-curation-work" },
      el("div", { className: "dpo-curation-head" }, this._leave, this._folder, tabs, this._full),
      this._state,
      this._problem,
      this._rank.element,
      this._groups.element,
      this._review.element,
    );
    this._body = el("div", { className: "dpo-curation-body" }, this._start.element, this._work);
    this.element = el("div", { className: "dpo dpo-curation" }, this._body);
    this._body.addEventListener("keydown", (event) => this._onKey(event), { capture: true });
    this._body.addEventListener("keydown", stayHere);
    this._body.addEventListener("keyup", (event) => event.stopPropagation());
    this._dialog = el("dialog", { className: "dpo dpo-curation-dialog" });
    this._dialog.setAttribute("aria-label", "Rank a folder, full screen");
    this._dialog.addEventListener("close", () => this._bringBack());
    for (const name of ["keydown", "pointerdown", "wheel", "contextmenu", "paste", "copy"]) {
      this._dialog.addEventListener(name, (event) => event.stopPropagation());
    }
  }

  /** The panel has been put on the page. */
  shown() {
    if (!this.desk.scan) this.desk.enter();
    else this.desk.refresh();
  }

  // Full screen

  toggleFull() {
    if (this._dialog.open) {
      this._dialog.close();
      return;
    }
    this._port.host().append(this._dialog);
    this._dialog.append(this._body);
    this._dialog.showModal();
    this._nameFull("Leave full screen", "close");
    if (this._view === "rank") this._rank.focus();
  }

  _bringBack() {
    this.element.append(this._body);
    this._dialog.remove();
    this._nameFull("Full screen", "full");
    this._full.focus({ preventScroll: true });
  }

  _nameFull(label, sign) {
    this._full.setAttribute("aria-label", label);
    this._full.title = label;
    this._full.replaceChildren(icon(sign));
  }

  // Views

  _turn(view) {
    this._view = view;
    if (view === "groups") this._groups.read();
    const { session: id, pairsPerGroup } = this.desk.settings;
    if (view === "session") this.review.show({ kind: "sessions", id, pairsPerGroup });
    if (view === "pairs") this.review.show({ kind: "scans", id: this.desk.scan.scan });
    if (view === "rank" && this.desk.scan && !this.desk.group) this.desk.next("begun");
    this._update();
  }

  _goBack() {
    this._view = "rank";
    return this.desk.leave();
  }

  async _open(group) {
    this._view = "rank";
    await this.desk.open(group);
    this._rank.focus();
  }

  _onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!this.desk.scan || this._view !== "rank" || isTyping(event.target)) return;
    const act = { x: "skip", e: "finish", m: "next" }[event.key.toLowerCase()];
    if (!act || event.repeat || this.desk.busy) return;
    event.preventDefault();
    event.stopPropagation();
    this.desk[act]();
  }

  _update() {
    if (!this._work) return;
    const { desk } = this;
    const { scan } = desk;
    const reviewing = ["session", "pairs"].includes(this._view);
    const working = Boolean(scan) || reviewing;
    setHidden(this._start.element, working);
    setHidden(this._work, !working);
    if (!working) {
      this._start.update();
      return;
    }
    for (const [i, name] of Object.keys(VIEWS).entries()) {
      this._tabs[i].setAttribute("aria-pressed", String(name === this._view));
      setHidden(this._tabs[i], !scan && OF_FOLDER.includes(name));
    }
    setHidden(this._rank.element, this._view !== "rank");
    setHidden(this._groups.element, this._view !== "groups");
    setHidden(this._review.element, !reviewing);
    if (reviewing) this._review.update();
    const { session } = desk.settings;
    setText(this._folder, this._view === "session" ? session : lastFolders(scan.folder));
    this._folder.title = scan ? `${scan.folder}, session ${session}` : `session ${session}`;
    setHidden(this._state, !scan);
    setText(this._problem, desk.problem);
    setHidden(this._problem, !desk.problem);
    if (!scan) return;
    if (this._scanned !== scan.state) {
      this._scanned = scan.state;
      if (this._view === "pairs") this.review.readAgain();
    }
    const { done, all } = desk.progress;
    setText(this._progress, all ? `${done} of ${all} groups ranked` : "");
    this._bar.firstChild.style.width = `${all ? (100 * done) / all : 0}%`;
    setText(this._scan, scanText(desk));
    setHidden(this._stop, !desk.isScanning);
    setHidden(this._again, desk.isScanning);
    this._rank.update();
  }

  dispose() {
    this._rank.dispose();
    this._dialog.remove();
  }
}

function scanText({ scan, isScanning }) {
  if (scan.state === "failed") return scan.error;
  if (isScanning && !scan.listed) return "Looking for images…";
  if (isScanning) return `${scan.read.toLocaleString("en-US")} of ${counted(scan.listed, "image")} read`;
  const stopped = scan.state === "stopped" ? "stopped after " : "";
  const unusable = scan.unusable ? `, ${scan.unusable} cannot be used` : "";
  return `${stopped}${counted(scan.read, "image")}${unusable}`;
}

function lastFolders(path) {
  return path.split(/[\\/]/).slice(-2).join("/");
}

function isTyping({ tagName, type }) {
  if (tagName === "TEXTAREA" || tagName === "SELECT") return true;
  return tagName === "INPUT" && type !== "checkbox";
}

/** The page's own keys would act on the graph. */
function stayHere(event) {
  if (event.key !== "Escape" && !event.ctrlKey && !event.metaKey) event.stopPropagation();
}
