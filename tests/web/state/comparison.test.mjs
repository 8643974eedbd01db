import assert from "node:assert/strict";
import { test } from "node:test";

import { Comparison, PICTURES, RESULT } from "../../../web/comparison/comparison.mjs";
import { detailsOf, numbersText, openText, progressText } from "../../../web/comparison/words.mjs";

const reference = { session: "my blind", comparison: "0123456789abcdef" };
const RESULT_VIEW = {
  sides: [
    { name: "base", made_with: "" },
    { name: "mine", made_with: "sd + mine x 0.8" },
  ],
  a: 1,
  b: 4,
  ties: 2,
  identical: 1,
  share: { value: 5.5 / 8, low: 0.36, high: 0.9, trials: 8 },
  judged_by: "you 7",
  changed: 1,
  prompts: [],
};

/** A comparison in memory that answers as the routes do; `down` makes it unreachable. */
class Server {
  couples = ["c1", "c2", "c3"].map((set_id) => ({ set_id, answered: false }));
  hidden = 0;
  result = null;
  down = false;
  asked = [];

  answer(set_id) {
    this.couples = this.couples.map((one) =>
      one.set_id === set_id ? { set_id, answered: true } : one,
    );
    this.hidden += 1;
  }

  view() {
    const { couples, hidden, result } = this;
    return { ...reference, couples, identical: 0, hidden, result };
  }

  async get(path) {
    this.asked.push(path);
    if (this.down) return { status: 0, body: null };
    return { status: 200, body: this.view() };
  }

  async post(path) {
    this.asked.push(path);
    if (this.down) return { status: 507, body: { error: "No room.", problems: [] } };
    this.hidden = 0;
    this.result = RESULT_VIEW;
    return { status: 200, body: this.view() };
  }
}

async function opened(server = new Server()) {
  const comparison = new Comparison(server, () => {});
  await comparison.show(reference);
  return { comparison, server };
}

test("the next open couple comes after this one, then from the start", async () => {
  const { comparison, server } = await opened();
  assert.equal(server.asked[0], "/dpo/sessions/my%20blind/comparisons/0123456789abcdef");
  assert.equal(comparison.next("c1"), "c2");
  assert.equal(comparison.next("c3"), "c1");
  assert.equal(comparison.next("unknown"), "c1");
  for (const one of ["c2", "c3"]) server.answer(one);
  await comparison.load();
  assert.equal(comparison.next("c2"), "c1");
  assert.equal(comparison.next("c1"), undefined);
  assert.equal(progressText(comparison), "2 of 3 couples judged");
});

test("the reveal shows the result, and more to judge hides it", async () => {
  const { comparison, server } = await opened();
  await comparison.reveal();
  assert.equal(server.asked.length, 1); // there was nothing to reveal
  server.answer("c1");
  await comparison.load();
  assert.deepEqual([comparison.screen, comparison.mayReveal], [PICTURES, true]);
  await comparison.reveal();
  assert.deepEqual([comparison.screen, comparison.mayReveal], [RESULT, false]);
  await comparison.load();
  assert.equal(comparison.screen, RESULT);
  server.couples = [...server.couples, { set_id: "c4", answered: false }];
  await comparison.load();
  assert.equal(comparison.screen, PICTURES);
  server.answer("c4");
  await comparison.load();
  assert.equal(progressText(comparison), "2 of 4 couples judged, 1 since the reveal");
});

test("what judges alone have said, and is revealed, is shown at once", async () => {
  const server = new Server();
  server.result = RESULT_VIEW;
  assert.equal((await opened(server)).comparison.screen, RESULT);
});

test("a server that does not answer is said and asked again", async () => {
  const { comparison, server } = await opened();
  server.answer("c1");
  await comparison.load();
  server.down = true;
  await comparison.reveal();
  assert.deepEqual([comparison.problem, comparison.screen], ["No room.", PICTURES]);
  await comparison.load();
  assert.equal(comparison.problem, "ComfyUI does not answer.");
  server.down = false;
  await comparison.load();
  assert.deepEqual([comparison.problem, comparison.answered], ["", 1]);
});

test("another comparison begins with nothing of the one before", async () => {
  const { comparison, server } = await opened();
  comparison.turnTo(RESULT);
  const asked = comparison.show({ session: "other", comparison: "b" });
  assert.deepEqual([comparison.view, comparison.screen], [null, PICTURES]);
  await asked;
  assert.equal(server.asked.at(-1), "/dpo/sessions/other/comparisons/b");
});

test("words tell how far it is, and of the result every number", async () => {
  const { comparison, server } = await opened();
  for (const one of ["c1", "c2"]) server.answer(one);
  await comparison.load();
  assert.equal(openText(comparison).title, "2 of 3 judged");
  assert.match(openText(comparison).text, /The others stay hidden/);
  server.hidden = 3;
  await comparison.load();
  assert.match(openText(comparison).text, /judges said/);
  assert.doesNotMatch(openText(comparison).text, /The others stay hidden/);
  server.hidden = 2;
  server.answer("c3");
  await comparison.load();
  assert.equal(openText(comparison).title, "All 3 are judged");
  server.couples = [];
  await comparison.load();
  assert.equal(openText(comparison).title, "There is nothing to compare");
  assert.equal(
    numbersText(RESULT_VIEW),
    "Preferred: mine 4 times, base 1 time; 3 ties (1 the very same picture), each counting one " +
      "half. The 95\u00a0% interval is 36 to 90\u00a0%.",
  );
  const decided = { ...RESULT_VIEW, ties: 0, identical: 0 };
  assert.match(numbersText(decided), /^Preferred: mine 4 times, base 1 time\. The 95/);
  assert.deepEqual(detailsOf(RESULT_VIEW), [
    "Judged by: you 7",
    "mine: sd + mine x 0.8",
    "1 choice made or changed after the reveal: not blind, not counted.",
  ]);
});
