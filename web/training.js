// What training has to say while it runs, beside the line on its node.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SECONDS = 20;

app.registerExtension({
  name: "dpo.training",

  setup() {
    api.addEventListener("dpo.warning", ({ detail }) => {
      app.extensionManager.toast.add({
        severity: detail.serious ? "error" : "warn",
        summary: "Training (DPO)",
        detail: detail.text,
        // What may do harm stays until it is read.
        ...(detail.serious ? {} : { life: 1000 * SECONDS }),
      });
    });
  },
});
