// The runs as the panel lists them: found, kept up to date, chosen. Knows no page.

/** What is known of a run that the server has not told of yet. */
const NEW = {
  title: "New run",
  status: "running",
  step: 0,
  last_step: 0,
  target: 0,
  changed: 0,
  bytes: 0,
  model: "",
  loss: "",
  pairs: 0,
  noun: "pair",
};

export class RunList {
  constructor() {
    this.runs = [];
    this.bytes = 0;
    this.loaded = false;
    this.error = "";
    this.search = "";
    this.status = "";
  }

  /** What GET /dpo/runs has answered. */
  take({ runs, bytes }) {
    this.runs = runs;
    this.bytes = bytes;
    this.loaded = true;
    this.error = "";
  }

  fail(error) {
    this.error = error;
  }

  get(id) {
    return this.runs.find((run) => run.id === id) ?? null;
  }

  get isRunning() {
    return this.runs.some(({ status }) => status === "running");
  }

  /** The runs that search and status leave, newest first. */
  get shown() {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    return this.runs.filter((run) => {
      if (this.status && run.status !== this.status) return false;
      const text = [run.title, run.model, run.loss, run.id, run.status].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }

  /**
   * What an event tells of a run in training: {run, rows, step, target, done}.
   *
   * @returns {boolean} whether the server has to be asked for more
   */
  follow({ run: id, rows = [], step, target, done }, now) {
    const known = this.get(id);
    const run = known ?? { ...NEW, id };
    const accuracies = rows.map((row) => row["dpo/accuracy"]).filter(Number.isFinite);
    const validation = rows.findLast((row) => Number.isFinite(row["dpo/val_accuracy"]));
    const fresh = {
      ...run,
      status: "running",
      last_step: step ?? run.last_step,
      target: target ?? run.target,
      changed: now,
      ...(accuracies.length ? { accuracy: smoothed(run.accuracy, accuracies) } : {}),
      ...(validation
        ? {
            val_accuracy: validation["dpo/val_accuracy"],
            val_accuracy_low: validation["dpo/val_accuracy_low"],
            val_accuracy_high: validation["dpo/val_accuracy_high"],
          }
        : {}),
    };
    this.runs = [fresh, ...this.runs.filter((one) => one.id !== id)];
    return !known || known.status !== "running" || Boolean(done);
  }

  /** Takes a deleted run off the list. */
  drop(id) {
    const gone = this.get(id);
    if (!gone) return;
    this.runs = this.runs.filter((run) => run !== gone);
    this.bytes -= gone.bytes;
  }

  /** The run after the one that goes, or before it: where the keyboard is put. */
  neighbour(id) {
    const { shown } = this;
    const at = shown.findIndex((run) => run.id === id);
    return (shown[at + 1] ?? shown[at - 1])?.id ?? null;
  }
}

/** Over about ten steps, as the server's. */
function smoothed(before, values) {
  return values.reduce(
    (mean, value) => (typeof mean === "number" ? mean + (value - mean) / 10 : value),
    before,
  );
}
