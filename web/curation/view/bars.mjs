// A distribution as bars with their numbers.

import { el } from "../../element.mjs";

/** @param {[string, number][]} rows name and number */
export function bars(title, rows) {
  if (!rows.length) return null;
  const most = Math.max(...rows.map(([, number]) => number), 1);
  return el(
    "section",
    {},
    el("h4", { textContent: title }),
    el(
      "ul",
      { className: "dpo-bars" },
      ...rows.map(([name, number]) => {
        const bar = el("span", { className: "dpo-bars-bar", ariaHidden: "true" });
        bar.style.width = `${(100 * number) / most}%`;
        return el(
          "li",
          {},
          el("span", { className: "dpo-bars-name", dir: "auto", title: name, textContent: name }),
          el("span", { className: "dpo-bars-place" }, bar),
          el("span", { className: "dpo-bars-number", textContent: String(number) }),
        );
      }),
    ),
  );
}
