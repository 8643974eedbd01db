// What more than one of our extensions puts on ComfyUI's page: tabs of the sidebar, style sheets.

import { app } from "../../scripts/app.js";

/**
 * A tab of the sidebar that shows one panel.
 *
 * @param tab id, icon, title, tooltip
 * @param panel {element, shown(), gone()?}
 */
export function addSidebarTab(tab, panel) {
  app.extensionManager.sidebarTab.registerSidebarTab({
    ...tab,
    label: tab.title,
    type: "custom",
    render(element) {
      if (element.contains(panel.element)) return; // the page asks again whenever it draws
      element.style.height = "100%";
      element.append(panel.element);
      panel.shown();
    },
    destroy: () => panel.gone?.(),
  });
}

const styles = new Set();

/** Style sheets of the pack, by their paths from here, after that which all share; each once. */
export function loadStyles(...paths) {
  for (const path of ["./theme.css", ...paths]) {
    const { href } = new URL(path, import.meta.url);
    if (styles.has(href)) continue;
    styles.add(href);
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = href;
    document.head.append(link);
  }
}
