// What a comparison comes to: before the reveal how far it is, then the verdict and its numbers.

import { button, el, setHidden, setText } from "../../element.mjs";
import {
  coupleText,
  detailsOf,
  numbersText,
  openText,
  placesText,
  promptText,
  shareText,
} from "../words.mjs";

export class ResultView {
  /**
   * @param {object} comparison a `Comparison`
   * @param {object} port imageUrl(url), look(setId): shows a couple again, goOn(): shows pictures
   */
  constructor(comparison, port) {
    this._comparison = comparison;
    this._port = port;
    this._shown = null;
    this._build();
  }

  _build() {
    this._title = el("p", { className: "dpo-verdict", role: "status" });
    this._text = el("p", { className: "dpo-result-text" });
    this._percent = el("output", { className: "dpo-share-percent" });
    this._interval = el(
      "div",
      { className: "dpo-interval", role: "img" },
      el("i"),
      el("b"),
    );
    this._scale = ["", "equal", ""].map((textContent) => el("span", { textContent }));
    this._share = el(
      "div",
      { className: "dpo-share" },
      this._percent,
      this._interval,
      el("div", { className: "dpo-scale" }, ...this._scale),
    );
    this._details = el("ul", { className: "dpo-result-details" });
    this._since = el("p", { className: "dpo-result-text" });
    this._problem = el("p", { className: "dpo-result-problem", role: "alert" });
    this._reveal = button({
      label: "Reveal which pictures are whose",
      text: "Reveal",
      className: "dpo-main",
      onclick: () => this._comparison.reveal(),
    });
    this._goOn = button({ label: "Back to the pictures", text: "", onclick: this._port.goOn });
    this._goOn.append(el("span"));
    this._prompts = el("div", { className: "dpo-prompts dpo-scrolls", tabIndex: 0 });
    this._prompts.setAttribute("aria-label", "By prompt");
    this.element = el(
      "div",
      { className: "dpo-result" },
      this._title,
      this._share,
      this._text,
      this._details,
      this._since,
      this._problem,
      el("div", { className: "dpo-result-buttons" }, this._reveal, this._goOn),
      this._prompts,
    );
    // Enter and the space bar press the button in focus; nobody else is to hear of it.
    this.element.addEventListener("keydown", (event) => {
      if (["Enter", " ", "Tab"].includes(event.key)) event.stopPropagation();
    });
  }

  update() {
    const { view, problem, mayReveal, revealing, allAnswered, couples } = this._comparison;
    const result = view?.result ?? null;
    const open = openText(this._comparison);
    // Nothing but identical pictures has a result, which says less than what to look at.
    const shown = couples.length ? result : null;
    setText(this._title, shown ? shown.words : open.title);
    setText(this._text, shown ? numbersText(shown) : open.text);
    setHidden(this._share, !shown);
    if (shown) this._showShare(shown);
    this._showDetails(shown);
    setText(this._since, shown && mayReveal ? `${view.hidden} more judged since.` : "");
    setHidden(this._since, !this._since.textContent);
    setText(this._problem, problem);
    setHidden(this._problem, !problem);
    setHidden(this._reveal, !mayReveal);
    this._reveal.disabled = revealing;
    setHidden(this._goOn, !couples.length);
    setText(this._goOn.lastChild, allAnswered ? "Look at the pictures" : "Go on comparing");
    this._showPrompts(shown);
  }

  _showShare(result) {
    const [a, b] = result.sides;
    const { value, low, high } = result.share;
    setText(this._percent, shareText(result));
    this._percent.title = `How often ${b.name} is preferred, a tie counting one half`;
    for (const [name, part] of Object.entries({ value, low, high })) {
      this._interval.style.setProperty(`--${name}`, part);
    }
    this._interval.setAttribute("aria-label", numbersText(result));
    setText(this._scale[0], a.name);
    setText(this._scale[2], b.name);
  }

  _showDetails(result) {
    const lines = result ? detailsOf(result) : [];
    setHidden(this._details, !lines.length);
    this._details.replaceChildren(...lines.map((textContent) => el("li", { textContent })));
  }

  _showPrompts(result) {
    const asked = JSON.stringify(result?.prompts ?? []);
    if (asked === this._shown) return;
    this._shown = asked;
    setHidden(this._prompts, !result);
    this._prompts.replaceChildren(...(result?.prompts ?? []).map((row) => this._row(result, row)));
  }

  _row(result, row) {
    const couples = row.pictures.map((couple, i) => this._couple(result, couple, i));
    return el(
      "section",
      {},
      el(
        "header",
        {},
        el("span", { textContent: row.prompt || "No prompt", dir: "auto", title: row.prompt }),
        el("b", { textContent: promptText(result, row) }),
      ),
      el("p", { textContent: couples.length ? placesText(result) : "" }),
      el("div", { className: "dpo-couples" }, ...couples),
    );
  }

  _couple(result, couple, i) {
    const said = coupleText(result, couple);
    const pictures = ["a", "b"].map((side, at) => {
      const picture = el("img", { alt: result.sides[at].name, draggable: false });
      picture.src = this._port.imageUrl(couple[side]);
      if (couple.result === side) picture.dataset.won = "yes";
      return picture;
    });
    const label = `Couple ${i + 1}: ${said}. Look at it again`;
    const onclick = () => this._port.look(couple.set_id);
    const made = el("button", { type: "button", className: "dpo-couple", title: label, onclick });
    made.setAttribute("aria-label", label);
    made.append(el("span", {}, ...pictures), el("small", { textContent: said }));
    return made;
  }
}
