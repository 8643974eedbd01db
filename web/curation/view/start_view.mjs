// Which folder is looked through, and which session the choices go to.

import { button, el, setHidden, setText } from "../../element.mjs";

export class StartView {
  /**
   * @param desk see `Desk`
   * @param {() => void} onReview the pairs of the session are to be seen
   */
  constructor(desk, onReview) {
    this.desk = desk;
    this._folder = field("Folder", { placeholder: "output, or a folder below it" });
    this._session = field("Session", { placeholder: "default" });
    this._known = el("datalist", { id: "dpo-curation-sessions" });
    this._session.input.setAttribute("list", this._known.id);
    this._look = button({ label: "Look through the folder", text: "Look through it", className: "dpo-main", onclick: () => this._start() });
    const review = button({
      label: "Review the pairs of the session",
      text: "Review its pairs",
      onclick: () => {
        this._keepSession();
        onReview();
      },
    });
    this._problem = el("p", { className: "dpo-curation-problem", role: "alert" });
    this._earlier = el("ul", { className: "dpo-curation-folders" });
    this._earlier.setAttribute("aria-label", "Folders looked through before");
    this._earlierTitle = el("h4", { textContent: "Looked through before" });
    this.element = el(
      "form",
      {
        className: "dpo-curation-start",
        onsubmit: (event) => {
          event.preventDefault();
          this._start();
        },
      },
      el("p", {
        textContent:
          "Rank images you already have. They are grouped by prompt and size; what you choose goes " +
          "into a session, and Load Preferences gives it to training.",
      }),
      this._folder.element,
      this._session.element,
      this._known,
      el("div", { className: "dpo-curation-tools" }, this._look, review),
      this._problem,
      this._earlierTitle,
      this._earlier,
    );
    this._folder.input.value = desk.settings.folder || "output";
    this._session.input.value = desk.settings.session;
  }

  _start() {
    const folder = this._folder.input.value.trim();
    this._keepSession();
    return this.desk.look({ folder });
  }

  _keepSession() {
    this.desk.set({ session: this._session.input.value.trim() || "default" });
  }

  update() {
    const { desk } = this;
    setText(this._problem, desk.problem);
    setHidden(this._problem, !desk.problem);
    this._look.disabled = desk.busy;
    const sessions = desk.sessions.map(({ name }) => name);
    if (this._shownSessions !== sessions.join("\n")) {
      this._shownSessions = sessions.join("\n");
      this._known.replaceChildren(...sessions.map((value) => el("option", { value })));
    }
    setHidden(this._earlierTitle, !desk.scans.length);
    const folders = desk.scans.map(({ scan, folder }) => `${scan} ${folder}`).join("\n");
    if (folders === this._shownFolders) return;
    this._shownFolders = folders;
    this._earlier.replaceChildren(
      ...desk.scans.map(({ scan, folder }) => {
        const again = button({
          label: `Go on with ${folder}`,
          text: folder,
          className: "dpo-quiet",
          onclick: () => {
            this._keepSession();
            this.desk.look({ scan });
          },
        });
        return el("li", {}, again);
      }),
    );
  }
}

function field(label, properties) {
  const input = el("input", { type: "text", className: "dpo-curation-field", spellcheck: false, ...properties });
  const element = el("label", { className: "dpo-curation-label" }, el("span", { textContent: label }), input);
  return { element, input };
}
