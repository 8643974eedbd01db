// Base and LoRA: first blind, then side by side under their names.

import { action, counted, Turner } from "./parts.mjs";
import { newId } from "./ranking/http_port.mjs";
import { el, setHidden, setText } from "./element.mjs";
import { RankingWidget } from "./ranking/view/ranking_widget.mjs";

export class CompareView {
  constructor(port, go) {
    this._port = port;
    this._go = go;
    const words = {
      empty: "There is nothing to compare.",
      next: "Take the next two",
      noAnswer: "The demo does not answer.",
    };
    const valueChanged = ({ set_id }) => {
      this._turner.saved(set_id);
      go.refresh();
    };
    this._turner = new Turner(() => {}, () => this._end());
    this._widget = new RankingWidget({ ...port, words, valueChanged }, newId);
    this._turner.attach(this._widget);
    this._widget.board.setMode("side_by_side");
    this._build();
  }

  _build() {
    this._title = el("h2");
    this._said = el("p", { role: "status" });
    this._start = action("Compare blind", () => this._begin(), "main");
    this._stop = action("Enough: show the result", () => this._end());
    this._more = action("Rank more pictures", () => this._rankMore());
    this._again = action("Train further", () => this._go.ask("/demo/train"));
    this._shareText = el("p");
    this._percent = el("output");
    this._interval = el("div", { className: "interval", role: "img" }, el("i"), el("b"));
    const scale = ["the model as it was", "equal", "what it learned from you"];
    this._share = el(
      "div",
      { className: "share" },
      this._percent,
      this._interval,
      el(
        "div",
        { className: "scale" },
        ...scale.map((textContent) => el("span", { textContent })),
      ),
    );
    const buttons = [this._start, this._stop, this._more, this._again];
    this._panel = el(
      "div",
      { className: "panel" },
      this._title,
      this._share,
      this._shareText,
      this._said,
      el("div", { className: "buttons" }, ...buttons),
    );
    this._place = el("div", { className: "widget blind" }, this._widget.element);
    this._pairs = el("div", { className: "pairs" });
    const why =
      "The same prompt and the same noise, of prompts it was not trained on. Once you know the " +
      "difference a comparison is not blind any more.";
    this._sheet = el(
      "details",
      { className: "panel" },
      el("summary", { textContent: "Before and after" }),
      el("p", { className: "dim", textContent: why }),
      this._pairs,
    );
    this.element = el("div", { className: "section" }, this._panel, this._place, this._sheet);
  }

  update(state) {
    const { result, job } = state;
    if (!result) return;
    this._state = state;
    const { blind } = result;
    if (this._steps !== result.steps) this._newResult(result);
    const answered = blind.answered.filter(Boolean).length;
    const all = answered === blind.sets.length;
    const asking = this._asking && !all;
    if (asking) {
      const sets = blind.sets.map((id, i) => ({ id, closed: blind.answered[i] }));
      this._turner.update(blind.session, sets);
    }
    const reveals = Boolean(blind.share) && !this._asking;
    setText(this._title, titleOf(result));
    setHidden(this._title, this._asking);
    this._panel.classList.toggle("asking", Boolean(this._asking));
    setText(this._said, asking ? `${answered} of ${blind.sets.length} answered` : saidOf(blind));
    setHidden(this._said, !this._said.textContent || (reveals && all));
    setHidden(this._place, !this._asking);
    setHidden(this._sheet, this._asking);
    this._showShare(reveals ? blind : null);
    setHidden(this._start, this._asking || all);
    setText(this._start, answered ? "Go on comparing" : "Compare blind");
    setHidden(this._stop, !this._asking || !blind.share);
    for (const one of [this._more, this._again]) {
      setHidden(one, this._asking);
      one.disabled = Boolean(job);
    }
  }

  _newResult(result) {
    this._steps = result.steps;
    this._asking = false;
    this._sheet.open = result.blind.answered.every(Boolean);
    const { imageUrl } = this._port;
    this._pairs.replaceChildren(
      ...result.pictures.map(({ prompt, before, after }) =>
        el(
          "figure",
          { className: "pair" },
          el("span", { textContent: "Base" }),
          el("span", { textContent: "LoRA" }),
          el("img", { src: imageUrl(before), alt: `${prompt}, drawn by the base model` }),
          el("img", { src: imageUrl(after), alt: `${prompt}, drawn with the LoRA` }),
          el("figcaption", { textContent: prompt }),
        ),
      ),
    );
  }

  _begin() {
    this._asking = true;
    this._sheet.open = false;
    this.update(this._state);
    this._widget.element.querySelector(".dpo-board")?.focus();
  }

  async _end() {
    this._asking = false;
    this._sheet.open = true;
    await this._go.refresh();
    this.update(this._state);
  }

  async _rankMore() {
    const open = this._state.groups.some((one) => !one.ranked);
    if (open || (await this._go.ask("/demo/more"))) this._go.to("rank");
  }

  _showShare(blind) {
    setHidden(this._share, !blind);
    setHidden(this._shareText, !blind);
    if (!blind) return;
    const { value, low, high, trials, words } = blind.share;
    const percent = (one) => Math.round(100 * one);
    setText(this._percent, `${percent(value)} %`);
    for (const [name, part] of Object.entries({ value, low, high })) {
      this._interval.style.setProperty(`--${name}`, part);
    }
    const range = `${percent(low)} to ${percent(high)} %`;
    this._interval.setAttribute("aria-label", `Between ${range}`);
    setText(
      this._shareText,
      `How often you preferred the LoRA, of ${counted(trials, "blind comparison")}; the 95 % ` +
        `interval is ${range}. ${words}${sameOf(blind)}`,
    );
  }
}

function titleOf({ steps, pairs }) {
  return `Trained ${counted(steps, "step")} on ${counted(pairs, "pair")} of yours`;
}

function saidOf({ sets, answered }) {
  const left = answered.filter((one) => !one).length;
  if (!left) return sets.length ? "" : "Base and LoRA draw the same pictures: nothing was learned.";
  const what = `${counted(left, "time")} you see two pictures of one prompt, one of them drawn `;
  return `Do you like what it learned? ${what}with the LoRA, and you are not told which.`;
}

function sameOf({ identical }) {
  if (!identical) return "";
  return ` ${counted(identical, "prompt")} came out the same and counted as a tie.`;
}
