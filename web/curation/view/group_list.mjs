// All groups of a folder in one state, to choose from.

import { button, el, setHidden, setText } from "../../element.mjs";
import { ORDERS, STATES } from "../desk.mjs";
import { copies, counted } from "../words.mjs";

const PAGE = 40;

export class GroupList {
  /**
   * @param desk see `Desk`
   * @param imageUrl(url) makes an address absolute
   * @param onOpen(group) a group was chosen
   */
  constructor(desk, imageUrl, onOpen) {
    this.desk = desk;
    this._imageUrl = imageUrl;
    this._onOpen = onOpen;
    this._state = "todo";
    this._asked = 0;
    this._which = select("Show groups that are", STATES, (state) => {
      this._state = state;
      this.read();
    });
    this._order = select("In the order", ORDERS, (order) => this._arrange({ order }));
    this._search = el("input", {
      type: "search",
      className: "dpo-curation-field",
      placeholder: "Search prompts",
      onchange: () => this._arrange({ search: this._search.value }),
    });
    this._search.setAttribute("aria-label", "Search prompts");
    this._count = el("p", { className: "dpo-curation-dim", role: "status" });
    this._items = el("ul", { className: "dpo-curation-groups" });
    this._items.setAttribute("aria-label", "Groups");
    this._more = button({ label: "Show more groups", text: "More", onclick: () => this._read() });
    this.element = el(
      "div",
      { className: "dpo-curation-list" },
      el("div", { className: "dpo-curation-tools" }, this._which, this._order, this._search),
      this._count,
      this._items,
      this._more,
    );
  }

  async _arrange(changes) {
    await this.desk.arrange(changes);
    this.read();
  }

  /** From the first group on. */
  read() {
    const { order, search } = this.desk.settings;
    this._order.value = order;
    this._which.value = this._state;
    this._search.value = search;
    this._offset = 0;
    return this._read();
  }

  async _read() {
    const asked = (this._asked += 1);
    const offset = this._offset;
    const { groups, total, problem } = await this.desk.page(this._state, offset, PAGE);
    if (asked !== this._asked) return;
    const items = groups.map((group) => this._item(group));
    if (offset) this._items.append(...items);
    else this._items.replaceChildren(...items);
    this._offset = offset + groups.length;
    setText(this._count, problem || counted(total, "group"));
    setHidden(this._more, this._offset >= total || !groups.length);
  }

  _item(group) {
    const { prompt, count, width, height, samples } = group;
    const title = prompt === null ? "No prompt known" : prompt || "Empty prompt";
    const facts = [counted(count, "image"), `${width} × ${height}`];
    if (group.copies) facts.push(copies(group.copies));
    if (group.parts.length > 1) facts.push(`${group.parts.length} parts`);
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", className: "dpo-curation-group", onclick: () => this._onOpen(group.group) },
        el(
          "span",
          { className: "dpo-curation-samples", ariaHidden: "true" },
          ...samples.map(({ thumbnail, url }) =>
            el("img", { src: this._imageUrl(thumbnail ?? url), alt: "", loading: "lazy" }),
          ),
        ),
        el("span", { className: "dpo-curation-title", dir: "auto", textContent: title }),
        el("span", { className: "dpo-curation-dim", textContent: facts.join(" · ") }),
      ),
    );
  }
}

export function select(label, options, onchange) {
  const made = el(
    "select",
    { className: "dpo-curation-field", onchange: () => onchange(made.value) },
    ...Object.entries(options).map(([value, textContent]) => el("option", { value, textContent })),
  );
  made.setAttribute("aria-label", label);
  return made;
}
