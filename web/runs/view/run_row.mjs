// One run in the list.

import { el, setData, setHidden, setText } from "../../element.mjs";
import { ago, bytes, counted, progress, results, STATUSES } from "../words.mjs";

export class RunRow {
  /** @param {(id: string) => void} open */
  constructor(id, open) {
    this.id = id;
    this.pictured = null;
    this._picture = el("span", { className: "dpo-run-picture", ariaHidden: "true" });
    this._title = el("span", { className: "dpo-run-title" });
    this._status = el("span", { className: "dpo-run-status" });
    this._done = el("span", { className: "dpo-run-line" });
    this._results = el("span");
    this._rest = el("span", { className: "dpo-run-line dpo-run-dim" });
    this._bar = el("span", { className: "dpo-run-bar", ariaHidden: "true" }, el("span"));
    this.button = el(
      "button",
      { type: "button", className: "dpo-run", dataset: { run: id }, onclick: () => open(id) },
      this._picture,
      el(
        "span",
        { className: "dpo-run-text" },
        el("span", { className: "dpo-run-head" }, this._title, this._status),
        this._done,
        this._results,
        this._rest,
        this._bar,
      ),
    );
    this.element = el("li", {}, this.button);
  }

  show(run, now) {
    const [word, meaning] = STATUSES[run.status] ?? [run.status, ""];
    setText(this._title, run.title);
    this.button.title = run.title === run.model ? run.title : `${run.title}\n${run.model}`;
    setText(this._status, word);
    this._status.title = meaning;
    setData(this._status, "status", run.status);
    const data = run.pairs ? `, ${counted(run.pairs, run.noun)}` : "";
    const method = run.loss ? `, ${run.loss}` : "";
    setText(this._done, progress(run) + data + method);
    const told = results(run);
    setText(this._results, told);
    setHidden(this._results, !told);
    setText(this._rest, [ago(run.changed, now), run.bytes ? bytes(run.bytes) : ""].filter(Boolean).join(", "));
    const on = run.status === "running" && run.target > 0;
    setHidden(this._bar, !on);
    const share = on ? Math.min(1, Math.max(run.step, run.last_step) / run.target) : 0;
    this._bar.firstChild.style.width = `${100 * share}%`;
  }

  /** The last picture of the run, or its curve; `key` says of which state. */
  picture(key, content) {
    this.pictured = key;
    this._picture.replaceChildren(...(content ? [content] : []));
  }
}
