// Elements and icons. Text always goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  full: "M3 8V3h5M16 3h5v5M21 16v5h-5M8 21H3v-5",
  close: "M5 5l14 14M19 5L5 19",
  undo: "M8 5L3 10l5 5M3 10h11a6 6 0 0 1 0 12h-3",
  redo: "M16 5l5 5-5 5M21 10H10a6 6 0 0 0 0 12h3",
  older: "M15 4l-8 8 8 8",
  newer: "M9 4l8 8-8 8",
  in: "M12 4v16M4 12h16",
  out: "M4 12h16",
  fit: "M4 5h16v14H4zM8 9h8v6H8z",
  good: "M7 11l4-8c2 0 3 1 3 3l-1 4h6a2 2 0 0 1 2 2l-2 7a2 2 0 0 1-2 1H7zM3 11h4v9H3z",
  bad: "M17 13l-4 8c-2 0-3-1-3-3l1-4H5a2 2 0 0 1-2-2l2-7a2 2 0 0 1 2-1h10zM21 13h-4V4h4z",
};

/** An element with properties, `dataset`, `aria` and event listeners (onclick), and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.startsWith("aria") || name === "role") {
      made.setAttribute(name.replace(/^aria(?=[A-Z])/, "aria-").toLowerCase(), value);
    }
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A real button; `key` is shown on it and told to screen readers. */
export function button({ label, text, sign, key, onclick, className = "" }) {
  const made = el("button", { type: "button", className: `dpo-button ${className}`, onclick });
  made.title = key ? `${label} (${key})` : label;
  made.setAttribute("aria-label", label);
  if (sign) made.append(icon(sign));
  if (text) made.append(el("span", { textContent: text }));
  if (key) made.append(el("kbd", { textContent: key, "aria-hidden": "true" }));
  return made;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

export function setData(element, name, value) {
  if (value === null || value === undefined || value === "") {
    if (name in element.dataset) delete element.dataset[name];
  } else if (element.dataset[name] !== String(value)) {
    element.dataset[name] = value;
  }
}
