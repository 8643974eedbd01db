// Asks before a run is deleted.

import { button, el } from "../../element.mjs";
import { bytes, counted } from "../words.mjs";

/**
 * @param detail of GET /dpo/runs/{id}
 * @param port see `RunsPanel`
 * @param named (id) => what a person calls a run
 * @returns {Promise<boolean>} whether it was deleted
 */
export async function askToDelete(detail, port, named) {
  let known = detail;
  let error = "";
  for (;;) {
    if (!(await confirmed(known, error, port, named))) return false;
    const { status, body } = await port.post(`/dpo/runs/${detail.id}/delete`, {
      id: detail.id,
      continued_by: known.continued_by,
    });
    if (status === 200 || status === 404) return true;
    error = body?.error ?? "The run was not deleted. Is ComfyUI still running?";
    const fresh = await port.get(`/dpo/runs/${detail.id}`);
    if (fresh.status === 200) known = fresh.body;
  }
}

function confirmed({ title, bytes: size, continued_by: after, loras }, error, port, named) {
  const lines = [`Its folder with curves, checkpoints and settings is removed: ${bytes(size)}.`];
  if (loras.length) lines.push("Its LoRA files are kept.");
  else lines.push("No LoRA of it was saved: what it learned is lost.");
  if (after.length) {
    lines.push(
      `${counted(after.length, "run")} ${after.length === 1 ? "goes" : "go"} on from it and will ` +
        "lose the beginning of the curves, and may not be able to go on:",
    );
  }
  return new Promise((resolve) => {
    const cancel = button({ label: "Cancel", text: "Cancel", onclick: () => dialog.close() });
    const remove = button({ label: "Delete the run", text: "Delete", className: "dpo-danger", onclick: () => dialog.close("delete") });
    const dialog = el(
      "dialog",
      { className: "dpo dpo-runs-dialog", onkeydown: (event) => event.stopPropagation() },
      el("h3", { textContent: `Delete “${title}”?` }),
      ...(error ? [el("p", { className: "dpo-run-error", role: "alert", textContent: error })] : []),
      ...lines.map((textContent) => el("p", { textContent })),
      ...(after.length
        ? [el("ul", {}, ...after.map((id) => el("li", { textContent: named(id) })))]
        : []),
      el("p", { textContent: "Asked for again, it is trained anew." }),
      el("div", { className: "dpo-run-actions" }, cancel, remove),
    );
    dialog.setAttribute("aria-label", "Delete a run");
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "delete");
    });
    port.host().append(dialog);
    dialog.showModal();
    cancel.focus();
  });
}
