// Numbers and times of runs as a person says them. Knows no page.

/** Between a number and its unit: no line ends there. */
const GAP = "\u00a0";
const SIZES = ["B", "KB", "MB", "GB", "TB"];

/** Bytes: 512 B, 1.5 MB. */
export function bytes(count) {
  let [size, value] = [0, count];
  while (value >= 999.5 && size < SIZES.length - 1) {
    value /= 1024;
    size += 1;
  }
  return `${size ? Number(value.toPrecision(3)) : value}${GAP}${SIZES[size]}`;
}

/** How long ago a time was, both in seconds since 1970; the date where that is weeks. */
export function ago(time, now) {
  const seconds = Math.max(0, now - time);
  if (seconds < 90) return "just now";
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.round(minutes / 60);
  if (hours < 36) return `${hours} h ago`;
  const days = Math.round(hours / 24);
  return days < 14 ? `${days} days ago` : new Date(1000 * time).toISOString().slice(0, 10);
}

export function percent(share) {
  return `${Math.round(100 * share)}${GAP}%`;
}

export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Status in a word, and what it means. */
export const STATUSES = {
  running: ["Running", "Being trained now."],
  finished: ["Finished", "Reached the steps asked for."],
  stopped: ["Stopped", "Ended early. Run the workflow again to go on from there."],
  interrupted: [
    "Interrupted",
    "ComfyUI ended in the middle of it. Run the workflow again: it goes on from the last checkpoint.",
  ],
  failed: ["Failed", "Something went wrong: the console of ComfyUI says what."],
  damaged: ["Damaged", "Its settings cannot be read, so it is not found again. It can be deleted."],
};

/** What has become of it, in a sentence or two. */
export function told({ status, reason }) {
  const meaning = STATUSES[status]?.[1] ?? "";
  if (!reason || !["finished", "stopped", "failed"].includes(status)) return meaning;
  return status === "stopped" ? `${reason} ${meaning}` : reason;
}

/** How far it has come: 120 of 200 steps. */
export function progress({ step, last_step: last, target, status }) {
  const at = status === "running" ? Math.max(step, last) : step;
  return target > at ? `${at} of ${counted(target, "step")}` : counted(at, "step");
}

/** What was measured, the validation with its interval; empty where nothing was. */
export function results({ accuracy, val_accuracy: value, val_accuracy_low: low, val_accuracy_high: high }) {
  const told = [];
  if (typeof accuracy === "number") told.push(`accuracy ${percent(accuracy)}`);
  if (typeof value === "number") {
    const known = typeof low === "number" && typeof high === "number";
    const interval = known ? ` (${Math.round(100 * low)}${GAP}to${GAP}${percent(high)})` : "";
    told.push(`validation ${percent(value)}${interval}`);
  }
  return told.join(", ");
}
