// The curation panel in ComfyUI: a tab of the sidebar.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { CurationPanel } from "./curation/view/curation_panel.mjs";
import { addSidebarTab, loadStyles } from "./page.mjs";
import { httpPort, newId } from "./ranking/http_port.mjs";

const KEPT = "dpo.curation";

const memory = {
  read() {
    try {
      return JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    } catch {
      return {};
    }
  },
  write(settings) {
    try {
      localStorage.setItem(KEPT, JSON.stringify(settings));
    } catch {
      // Only the next visit would have known.
    }
  },
};

app.registerExtension({
  name: "dpo.curation",

  init() {
    loadStyles("./ranking/ranking.css", "./curation/view/curation.css");
  },

  setup() {
    const port = {
      ...httpPort((path, options) => api.fetchApi(path, options)),
      imageUrl: (url) => api.apiURL(url),
      host: () => document.body,
      memory,
    };
    const panel = new CurationPanel(port, newId);
    const tab = {
      id: "dpo-curation",
      icon: "pi pi-images",
      title: "DPO folders",
      tooltip: "DPO folders: rank images that lie in a folder",
    };
    addSidebarTab(tab, panel);
    api.addEventListener("reconnected", () => panel.shown());
  },
});
