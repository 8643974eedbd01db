// One pair under review: its two images, what is known of it, and what can be changed.

import { button, el, setHidden } from "../../element.mjs";
import { PROBLEMS } from "../review.mjs";

/**
 * @param pair as GET /dpo/curation/{pairs} tells it
 * @param imageUrl(url) makes an address absolute
 * @param on {compare(pair), flip(pair), remove(pair), prompt(pair, text)}
 */
export function pairCard(pair, imageUrl, on) {
  const { chosen, rejected, prompt, problems } = pair;
  const side = (image, what) => {
    const picture = el("img", { src: imageUrl(image.thumbnail ?? image.url), alt: what, loading: "lazy" });
    const gone = el("span", { className: "dpo-review-gone", textContent: "This image is gone.", hidden: true });
    picture.addEventListener("error", () => {
      setHidden(picture, true);
      setHidden(gone, false);
    });
    return el("span", { className: "dpo-review-side", dataset: { side: what } }, picture, gone);
  };
  const compare = el(
    "button",
    { type: "button", className: "dpo-review-two", onclick: () => on.compare(pair) },
    side(chosen, "chosen"),
    side(rejected, "rejected"),
  );
  compare.setAttribute("aria-label", `Compare in full: ${prompt || "no prompt"}`);
  const text = el("p", { className: "dpo-review-prompt", dir: "auto", textContent: prompt ?? "No prompt known" });
  const foot = el(
    "div",
    { className: "dpo-review-foot" },
    button({ label: "Turn round: the other image is better", text: "Turn round", onclick: () => on.flip(pair) }),
    button({ label: "Remove this pair", text: "Remove", onclick: () => on.remove(pair) }),
    button({ label: "Change the prompt", text: "Prompt…", onclick: () => edit() }),
  );
  const card = el(
    "li",
    { className: "dpo-review-pair", dataset: { pair: pair.pair } },
    compare,
    text,
    el("p", { className: "dpo-curation-dim", textContent: factsOf(pair) }),
    ...problems.map((one) => el("p", { className: "dpo-review-odd", textContent: PROBLEMS[one] ?? one })),
    foot,
  );

  function edit() {
    const field = el("textarea", { className: "dpo-curation-field", rows: 3, value: prompt ?? "" });
    field.setAttribute("aria-label", "Prompt");
    const bar = el(
      "div",
      { className: "dpo-review-foot" },
      button({ label: "Save the prompt", text: "Save", className: "dpo-main", onclick: () => save() }),
      button({ label: "Leave the prompt as it is", text: "Cancel", onclick: () => close() }),
    );
    const save = async () => {
      if (await on.prompt(pair, field.value)) close();
    };
    const close = () => {
      field.replaceWith(text);
      bar.replaceWith(foot);
      foot.lastChild.focus();
    };
    text.replaceWith(field);
    foot.replaceWith(bar);
    field.focus();
  }

  return card;
}

function factsOf({ probability, gap, split, chosen, rejected, at }) {
  const size = ({ width, height }) => (width ? `${width} × ${height}` : "");
  const sizes = [...new Set([size(chosen), size(rejected)])].filter(Boolean).join(" and ");
  return [
    `P ${Math.round(100 * probability)} %`,
    gap === null ? "" : `gap ${gap.toFixed(1)}`,
    sizes,
    split ?? "",
    at ? new Date(at).toLocaleDateString() : "",
  ]
    .filter(Boolean)
    .join(" · ");
}
