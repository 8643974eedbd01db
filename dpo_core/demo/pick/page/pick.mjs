// The demo's page: pictures are ranked, a LoRA is trained on the picks, and base and LoRA compared.
// It shows what /demo/state says; the ranking itself is the widget that ComfyUI shows, too.

import { CompareView } from "./compare_view.mjs";
import { choice } from "./parts.mjs";
import { RankView } from "./rank_view.mjs";
import { el, setHidden, setText } from "./element.mjs";
import { httpPort } from "./ranking/http_port.mjs";
import { TrainView } from "./train_view.mjs";

const BUSY_SECONDS = 0.4;
const IDLE_SECONDS = 3;
const STEPS = { rank: "1  Rank", train: "2  Train", compare: "3  Compare" };
const LEARNING = ["training", "drawing before and after"];

const BASE = new URL(".", location.href).pathname.replace(/\/$/, "");
const http = httpPort((path, options) => fetch(BASE + path, options));

class Page {
  constructor() {
    const port = { ...http, imageUrl: (url) => BASE + url, shown() {} };
    const go = { ask: (path) => this.ask(path), refresh: () => this.refresh(), to: (step) => this.to(step) };
    this._views = {
      rank: new RankView(port, go),
      train: new TrainView(go),
      compare: new CompareView(port, go),
    };
    this._steps = {};
    for (const [name, label] of Object.entries(STEPS)) {
      document.getElementById(name).append(this._views[name].element);
      this._steps[name] = choice(label, () => this.to(name));
      document.getElementById("steps").append(this._steps[name]);
    }
    this._gone = document.getElementById("gone");
    this._problem = document.getElementById("problem");
    this._places = document.getElementById("places");
    this._refused = "";
    this._asked = 0;
  }

  /** Asks for a work to begin; what refuses it is said. */
  async ask(path) {
    const { status, body } = await http.post(path, {});
    this._refused = status === 200 ? "" : (body?.error ?? "");
    await this.refresh();
    return status === 200;
  }

  async refresh() {
    clearTimeout(this._timer);
    const number = ++this._asked;
    const { status, body } = await http.get("/demo/state");
    if (number !== this._asked) return; // a later one is on its way
    setHidden(this._gone, status === 200);
    if (status === 200) this._show(body);
    const seconds = this.state?.job ? BUSY_SECONDS : IDLE_SECONDS;
    this._timer = setTimeout(() => this.refresh(), 1000 * seconds);
  }

  to(step) {
    this.step = step;
    this._refused = "";
    this._draw();
    this._views[step].enter?.();
  }

  _show(state) {
    const before = this.state;
    this.state = state;
    const learns = isLearning(state);
    if (!before) this.to(firstStep(state));
    else if (learns && !isLearning(before)) this.to("train");
    else if (!learns && isLearning(before)) this.to(state.problem ? "train" : "compare");
    this._draw();
  }

  _draw() {
    const { state, step } = this;
    if (!state) return;
    for (const [name, button] of Object.entries(this._steps)) {
      setHidden(document.getElementById(name), name !== step);
      if (name === step) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    this._steps.compare.disabled = !state.result;
    const problem = this._refused || state.problem;
    setText(this._problem, problem);
    setHidden(this._problem, !problem);
    this._views[step].update(state);
    this._showPlaces(state);
  }

  _showPlaces({ folder, result }) {
    const rows = [["Your picks", folder], ...(result ? [["The LoRA", result.lora]] : [])];
    const text = rows.flat().join("\n");
    if (text === this._placesText) return;
    this._placesText = text;
    const list = el("dl");
    for (const [name, path] of rows) {
      list.append(el("dt", { textContent: name }), el("dd", { textContent: path }));
    }
    this._places.replaceChildren(list);
  }
}

const isLearning = (state) => LEARNING.includes(state.job?.stage);

function firstStep(state) {
  if (isLearning(state)) return "train";
  const open = state.groups.length < state.wanted || state.groups.some((one) => !one.ranked);
  return state.result && !open ? "compare" : "rank";
}

new Page().refresh();
