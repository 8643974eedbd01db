// One run in full: curves, results, LoRAs, settings, model card, and what can be done with it.

import { Curves } from "../../charts/series.mjs";
import { Plot } from "../../charts/plot.mjs";
import { button, el, setData, setHidden, setText } from "../../element.mjs";
import { ago, bytes, counted, progress, results, STATUSES, told } from "../words.mjs";

const MOST_ROWS = 2000;

export class RunDetail {
  /**
   * @param port see `RunsPanel`
   * @param on {back(), open(id), remove(detail), list() => runs}
   */
  constructor(port, on) {
    this.port = port;
    this.on = on;
    this.id = null;
    this.detail = null;
    this.plot = new Plot();
    this.curves = new Curves();
    this.other = null;
    this._build();
  }

  _build() {
    const back = button({ label: "Back to all runs", text: "All runs", sign: "older", className: "dpo-quiet", onclick: () => this.on.back() });
    this.back = back;
    this._title = el("h3", { className: "dpo-run-title" });
    this._status = el("span", { className: "dpo-run-status" });
    this._meaning = el("p", { className: "dpo-run-note" });
    this._facts = el("p", { className: "dpo-run-facts" });
    this._strip = el("div", { className: "dpo-run-strip", role: "group", "aria-label": "Preview pictures", tabIndex: 0 });
    this._against = el("select", { className: "dpo-runs-field", onchange: () => this._compare(this._against.value) });
    this._against.setAttribute("aria-label", "Lay another run over these curves");
    this._load = button({
      label: "Load settings into a trainer",
      text: "Load settings into a trainer",
      className: "dpo-main",
      onclick: () => this._loadSettings(),
    });
    this._delete = button({ label: "Delete this run", text: "Delete…", onclick: () => this.on.remove(this.detail) });
    this._said = el("div", { className: "dpo-run-said", role: "status" });
    this._rest = el("div", { className: "dpo-run-rest" });
    this._plotBox = el("div", { className: "dpo-run-plot" }, this.plot.element);
    this.element = el(
      "section",
      { className: "dpo-run-detail" },
      back,
      el("div", { className: "dpo-run-head" }, this._title, this._status),
      this._meaning,
      this._facts,
      this._strip,
      this._plotBox,
      this._against,
      el("div", { className: "dpo-run-actions" }, this._load, this._delete),
      this._said,
      this._rest,
    );
    this._title.tabIndex = -1;
  }

  /** Shows a run: first what the list knows of it, then all. */
  async open(run) {
    this.id = run.id;
    this.detail = null;
    this.curves = new Curves();
    this.other = null;
    this._said.replaceChildren();
    this._rest.replaceChildren();
    this._strip.replaceChildren();
    this._pictured = null;
    this._marks = [];
    setHidden(this._strip, true);
    this._head(run);
    this._options();
    this._draw("Reading the curves…");
    this._title.focus({ preventScroll: true });
    await Promise.all([this.refresh(), this._readMetrics()]);
  }

  /** Asks anew for all but the curves. */
  async refresh() {
    const id = this.id;
    const { status, body } = await this.port.get(`/dpo/runs/${id}`);
    if (this.id !== id) return;
    if (status === 404) {
      this.on.back(); // it was deleted meanwhile
      return;
    }
    if (status !== 200) {
      this.say([body?.error ?? "The run could not be read. Is ComfyUI still running?"]);
      return;
    }
    this.detail = body;
    this._head(body);
    this._fill(body);
  }

  async _readMetrics() {
    const id = this.id;
    const after = this.curves.last;
    const { status, body } = await this.port.get(
      `/dpo/runs/${id}/metrics?after=${after}&most=${MOST_ROWS}`,
    );
    if (this.id !== id) return;
    if (status === 200) this.curves.add(body.rows);
    this._draw(status === 200 ? "Nothing has been measured yet." : "The curves could not be read.");
  }

  /** New rows of the run in training, warnings so far, and what the list now knows of it. */
  follow(run, { rows = [], warnings = [] }) {
    if (run.id !== this.id) return;
    this._marks = warnings;
    this._head(run);
    const gap = rows.length && rows[0].step > this.curves.last + 1;
    if (gap) this._readMetrics();
    else if (rows.length) {
      this.curves.add(rows);
      this._draw("");
    }
  }

  _head(run) {
    const [word] = STATUSES[run.status] ?? [run.status];
    setText(this._title, run.title);
    setText(this._status, word);
    setData(this._status, "status", run.status);
    setText(this._meaning, told({ status: run.status, reason: run.reason ?? this.detail?.reason }));
    const facts = [progress(run), run.pairs ? counted(run.pairs, run.noun) : "", results(run)];
    if (run.model && run.model !== run.title) facts.push(run.model);
    facts.push(ago(run.changed, this.port.now()), run.bytes ? bytes(run.bytes) : "");
    setText(this._facts, facts.filter(Boolean).join(" · "));
    this._run = run;
    this._allow();
  }

  // Both need the whole run: until it has been read they would do nothing.
  _allow() {
    const running = this._run.status === "running";
    this._load.disabled = !this.detail || this.detail.status === "damaged";
    this._delete.disabled = !this.detail || running;
    this._delete.title = running ? "Stop the training first, then delete the run." : "Delete this run";
  }

  _draw(empty) {
    const runs = [{ name: this._run.title, curves: this.curves, marks: this._marks }];
    if (this.other) runs.push({ name: this.other.name, curves: this.other.curves, marks: [] });
    const target = this._run.status === "running" && this._run.target ? this._run.target : null;
    this.plot.show(runs, { target, empty });
  }

  // Laid over each other

  _options() {
    const others = this.on.list().filter((run) => run.id !== this.id);
    const known = this._against.value;
    this._against.replaceChildren(
      el("option", { value: "", textContent: "Compare with another run…" }),
      ...others.map((run) =>
        el("option", {
          value: run.id,
          textContent: `${run.title}, ${progress(run)} (${run.id.slice(0, 6)})`,
        }),
      ),
    );
    this._against.value = this.other && others.some(({ id }) => id === known) ? known : "";
    setHidden(this._against, !others.length);
  }

  async _compare(id) {
    this.other = null;
    if (id) {
      const { status, body } = await this.port.get(`/dpo/runs/${id}/metrics?most=${MOST_ROWS}`);
      if (this._against.value !== id) return;
      if (status === 200) {
        const run = this.on.list().find((one) => one.id === id);
        this.other = { name: `${run?.title ?? "other"} (${id.slice(0, 6)})`, curves: new Curves(body.rows) };
      } else this.say([body?.error ?? "The other run could not be read."]);
    }
    this._draw("Nothing has been measured yet.");
  }

  // What is told below the curves

  _fill(detail) {
    const open = new Set(
      [...this._rest.querySelectorAll("details[open]")].map(({ dataset }) => dataset.part),
    );
    const parts = [
      this._loras(detail),
      this._lineage(detail),
      ...this._settings(detail),
      this._card(detail),
      this._folder(detail),
    ];
    this._rest.replaceChildren(...parts.filter(Boolean));
    for (const one of this._rest.querySelectorAll("details")) {
      if (open.has(one.dataset.part)) one.open = true;
    }
    this._previews(detail);
  }

  _previews({ previews }) {
    const { prompts, columns } = previews;
    const key = JSON.stringify(columns);
    if (key === this._pictured) return;
    this._pictured = key;
    setHidden(this._strip, !columns.length);
    this._strip.replaceChildren(
      ...columns.map(({ step, urls }) => {
        const at = step === null ? "Base model" : `Step ${step}`;
        const images = urls.map((url, i) => {
          const title = prompts[i] ?? "";
          return el("img", { src: this.port.imageUrl(url), alt: `${at}: ${title}`, title, loading: "lazy" });
        });
        return el("figure", {}, ...images, el("figcaption", { textContent: at }));
      }),
    );
  }

  _loras({ loras }) {
    if (!loras.length) return null;
    const lines = loras.toReversed().map((lora) => {
      const gone = lora.bytes === null;
      const facts = `step ${lora.step}, ${gone ? "not there any more" : bytes(lora.bytes)}`;
      return el(
        "li",
        { className: gone ? "dpo-run-dim" : "" },
        el("span", { className: "dpo-run-file", textContent: lora.file }),
        el("span", { className: "dpo-run-dim", textContent: facts }),
      );
    });
    return section("LoRAs", el("ul", { className: "dpo-run-list" }, ...lines));
  }

  _lineage({ continues, continued_by: after }) {
    const links = [];
    const link = (id, text) => {
      const onclick = () => this.on.open(id);
      return el("li", {}, button({ label: text, text, className: "dpo-quiet", onclick }));
    };
    if (continues) {
      const { id, step } = continues;
      links.push(link(id, `Goes on from step ${step} of ${this.named(id)}`));
    }
    for (const id of after) links.push(link(id, `Continued by ${this.named(id)}`));
    return links.length ? section("Before and after", el("ul", { className: "dpo-run-list" }, ...links)) : null;
  }

  /** A run as a person knows it. */
  named(id) {
    const run = this.on.list().find((one) => one.id === id);
    return run ? `${run.title} (${id.slice(0, 6)})` : `${id.slice(0, 6)}, which is not there any more`;
  }

  _settings({ described }) {
    if (!described.length) return [];
    const groups = described.map(({ title, lines }) => [
      el("h5", { textContent: title }),
      el(
        "dl",
        {},
        ...lines.flatMap(([name, value]) => [
          el("dt", { textContent: name }),
          el("dd", { textContent: value }),
        ]),
      ),
    ]);
    return [folded("settings", "Settings", ...groups.flat())];
  }

  _card({ card }) {
    if (!card) return null;
    const copy = this._copier("Copy the model card", card);
    return folded("card", "Model card", el("pre", { textContent: card, tabIndex: 0 }), copy);
  }

  _folder({ id, path, files, bytes: size }) {
    const list = files.map(({ name, bytes: each }) =>
      el("li", {}, el("span", { className: "dpo-run-file", textContent: name }), el("span", { className: "dpo-run-dim", textContent: bytes(each) })),
    );
    return section(
      "Folder",
      el("p", { className: "dpo-run-path" }, el("code", { textContent: path }), this._copier("Copy the path of the folder", path)),
      folded("files", `${counted(files.length, "file")}, ${bytes(size)}`, el("ul", { className: "dpo-run-list" }, ...list)),
      el("p", { className: "dpo-run-dim", textContent: `Run ${id}` }),
    );
  }

  _copier(label, text) {
    const made = button({
      label,
      text: "Copy",
      onclick: async () => {
        const done = await this.port.copy(text);
        const shown = made.querySelector("span");
        setText(shown, done ? "Copied" : "Could not copy");
        this.port.later(1.5, () => setText(shown, "Copy"));
      },
    });
    return made;
  }

  _loadSettings() {
    if (!this.detail) return;
    const { summary, lines } = this.port.loadSettings(this.detail);
    this.say([summary], lines);
  }

  /** Says what came of something, and lists what needs a look. */
  say(texts, lines = []) {
    this._said.replaceChildren(
      ...texts.map((textContent) => el("p", { textContent })),
      ...(lines.length
        ? [el("ul", {}, ...lines.map((textContent) => el("li", { textContent })))]
        : []),
    );
    this._said.scrollIntoView({ block: "nearest" });
  }

  dispose() {
    this.plot.dispose();
  }
}

function section(title, ...content) {
  return el("section", {}, el("h4", { textContent: title }), ...content);
}

function folded(part, title, ...content) {
  return el("details", { dataset: { part } }, el("summary", { textContent: title }), ...content);
}
