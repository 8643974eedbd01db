// A blind comparison as a page sees it: which couples are open, what is shown, and the reveal.
//
// No DOM, no network: everything outside comes through the port,
//
//   get(path), post(path, body)  -> {status, body}, status 0 if nothing answered

const NO_ANSWER = "ComfyUI does not answer.";

/** What is on display: couples to choose from, or what they come to. */
export const [PICTURES, RESULT] = ["pictures", "result"];

export class Comparison {
  /**
   * @param {object} port see above
   * @param {() => void} onChange called after every change
   */
  constructor(port, onChange) {
    this._port = port;
    this._onChange = onChange;
    this.clear();
  }

  /** Nothing is compared any more. */
  clear() {
    this.reference = null;
    this.view = null;
    this.problem = "";
    this.screen = PICTURES;
    this.revealing = false;
  }

  /** @param {{session: string, comparison: string}} reference */
  show({ session, comparison }) {
    if (session !== this.reference?.session || comparison !== this.reference.comparison) {
      this.clear();
      this.reference = { session, comparison };
    }
    return this.load();
  }

  /** Reads the comparison from the server. */
  async load() {
    const { reference } = this;
    if (!reference) return;
    const { status, body } = await this._port.get(pathOf(reference));
    if (reference !== this.reference) return;
    if (status === 200) this._take(body);
    else this._fail(body);
    this._onChange();
  }

  /** Has the server tell whose the pictures judged so far are. */
  async reveal() {
    const { reference } = this;
    if (!reference || this.revealing || !this.mayReveal) return;
    this.revealing = true;
    this._onChange();
    const { status, body } = await this._port.post(`${pathOf(reference)}/reveal`, {});
    if (reference !== this.reference) return;
    this.revealing = false;
    if (status === 200) {
      this._take(body);
      this.screen = RESULT;
    } else {
      this._fail(body);
    }
    this._onChange();
  }

  /** @param {string} screen PICTURES or RESULT */
  turnTo(screen) {
    this.screen = screen;
    this._onChange();
  }

  get couples() {
    return this.view?.couples ?? [];
  }

  get answered() {
    return this.couples.filter((one) => one.answered).length;
  }

  get allAnswered() {
    return this.answered === this.couples.length;
  }

  /** Something was judged that is not told yet. */
  get mayReveal() {
    return (this.view?.hidden ?? 0) > 0;
  }

  isAnswered(setId) {
    return this.couples.some((one) => one.set_id === setId && one.answered);
  }

  /** The next couple that is not answered: after this one, then from the start; or undefined. */
  next(setId) {
    const at = this.couples.findIndex((one) => one.set_id === setId);
    const around = [...this.couples.slice(at + 1), ...this.couples.slice(0, Math.max(at, 0))];
    return around.find((one) => !one.answered)?.set_id;
  }

  _take(view) {
    const before = this.view?.couples.length;
    this.view = view;
    this.problem = "";
    if (before === this.couples.length) return;
    // Judges have had their say: a person need not.
    const judged = this.answered === 0 && view.result !== null;
    this.screen = this.allAnswered || judged ? RESULT : PICTURES;
  }

  _fail(body) {
    this.problem = [body?.error ?? NO_ANSWER, ...(body?.problems ?? [])].join(" ");
  }
}

function pathOf({ session, comparison }) {
  const folder = `/dpo/sessions/${encodeURIComponent(session)}`;
  return `${folder}/comparisons/${encodeURIComponent(comparison)}`;
}
