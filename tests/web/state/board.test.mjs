import assert from "node:assert/strict";
import { test } from "node:test";

import { Board } from "../../../web/ranking/board.mjs";
import { votesNow } from "../../../web/ranking/outbox.mjs";
import { draw } from "../../../web/ranking/random_source.mjs";

const reference = { session: "s", set_id: "0000002a" };
const IMAGES = ["a", "b", "c", "d", "e", "f"];

/** A session in memory that answers as the routes do; `down` makes it unreachable. */
class Store {
  votes = [];
  down = false;
  refuse = null;
  requests = 0;
  others = [];

  get active() {
    const struck = new Set();
    for (const vote of [...this.votes].reverse()) {
      if (!struck.has(vote.id)) (vote.strikes ?? []).forEach((id) => struck.add(id));
    }
    return this.votes.filter((vote) => vote.kind !== "undo" && !struck.has(vote.id));
  }

  view(set_id = reference.set_id) {
    const votes = this.active.filter((vote) => vote.set === set_id);
    return {
      v: 1,
      session: "s",
      set_id,
      prompt: "p",
      seed: 42,
      revision: `r${this.votes.length}`,
      images: IMAGES.map((id) => ({ id, width: 8, height: 8, url: `/${id}` })),
      votes,
      pairs: [],
      standings: [],
      totals: { pairs: 0, votes: this.active.length, sets: 1 + this.others.length },
    };
  }

  async get(path) {
    if (this.down) return { status: 0, body: null };
    if (path.endsWith("/sets")) return { status: 200, body: { sets: this.sets() } };
    return { status: 200, body: this.view(/sets\/(\w+)/.exec(path)[1]) };
  }

  /** Newest first. */
  sets() {
    return [...this.others, reference.set_id].map((set_id) => {
      const votes = this.active.filter((vote) => vote.set === set_id).length;
      return { set_id, prompt: "p", images: IMAGES.length, votes, at: 0 };
    });
  }

  async post(path, body) {
    this.requests += 1;
    if (this.down) return { status: 0, body: null };
    if (this.refuse) return { status: 400, body: { error: this.refuse, problems: [] } };
    const undo = path.includes("/undo");
    const vote = undo ? { id: body.undo_id, kind: "undo", strikes: [body.vote_id] } : body;
    if (!this.votes.some((one) => one.id === vote.id)) this.votes.push(vote);
    const on = undo ? this.votes.find((one) => one.id === body.vote_id).set : vote.set;
    return { status: 200, body: this.view(on) };
  }
}

async function opened(mode = "best_worst", store = new Store(), texts = new Map()) {
  const values = [];
  let ids = 0;
  const timers = [];
  const port = {
    get: (path) => store.get(path),
    post: (path, body) => store.post(path, body),
    later(seconds, call) {
      timers.push(call);
      return () => timers.splice(timers.indexOf(call), 1);
    },
    kept: {
      all: () => [...texts.values()],
      write: (id, text) => texts.set(id, text),
      drop: (id) => texts.delete(id),
    },
    shown() {},
    valueChanged: (value) => values.push(value),
  };
  const board = new Board(port, () => `id${store.votes.length}-${ids++}`, () => {});
  board.setMode(mode);
  await board.show(reference);
  await settled();
  return { board, store, values, texts, timers };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 1));

test("a pair counts at once and is saved when the server has answered", async () => {
  const { board, store, values } = await opened();
  board.pick("b");
  board.pick("e");
  assert.equal(board.model.selection.pairs.length, 1);
  assert.equal(board.unsaved, 1);
  await settled();
  assert.equal(board.unsaved, 0);
  assert.equal(store.active[0].best, "b");
  const value = { v: 1, ...reference, mode: "best_worst", revision: "r1" };
  assert.deepEqual(values, [value]);
});

test("what cannot be saved stays, says so, and is saved later in the same order", async () => {
  const { board, store, values, timers } = await opened("thumbs");
  store.down = true;
  board.label("a", "good");
  board.label("b", "bad");
  await settled();
  assert.equal(board.unsaved, 2);
  assert.match(board.failure.message, /does not answer/);
  assert.equal(board.model.labels.get("a"), "good");
  assert.equal(timers.length, 1);
  assert.deepEqual(values, []);
  store.down = false;
  board.retry();
  await settled();
  assert.equal(board.failure, null);
  assert.deepEqual(store.active.map((vote) => vote.labels), [{ a: "good" }, { b: "bad" }]);
});

test("a choice from a tab that was closed is sent when the set is shown again", async () => {
  const store = new Store();
  const first = await opened("thumbs", store);
  store.down = true;
  first.board.label("a", "good");
  await settled();
  store.down = false;
  const second = await opened("thumbs", store, first.texts);
  assert.equal(second.board.model.labels.get("a"), "good");
  assert.equal(store.active.length, 1);
  assert.equal(first.texts.size, 0);
});

test("a refused choice is not sent again by itself and can be given up", async () => {
  const { board, store, texts } = await opened("thumbs");
  store.refuse = "There is no such image.";
  board.label("a", "good");
  await settled();
  assert.equal(board.failure.message, "There is no such image.");
  assert.ok(board.failure.final);
  board.label("b", "good");
  await settled();
  assert.equal(store.requests, 1);
  store.refuse = null;
  board.discard();
  await settled();
  assert.deepEqual(store.active.map((vote) => vote.labels), [{ b: "good" }]);
  assert.equal(texts.size, 0);
});

test("undo takes back the open pick first, then saved votes, and redo brings them again", async () => {
  const { board, store } = await opened();
  board.setPairsPerGroup(2);
  await settled();
  board.pick("a");
  board.pick("f");
  await settled();
  board.pick("b");
  board.undo();
  assert.equal(board.model.selection.best, null);
  assert.equal(store.active.length, 1);
  board.undo();
  await settled();
  assert.equal(store.active.length, 0);
  board.redo();
  assert.equal(board.model.selection.pairs.length, 1);
  await settled();
  assert.equal(store.active[0].worst, "f");
});

test("a ranking saved again takes the place of the one before, and undo brings that back", async () => {
  const { board, store } = await opened("rank");
  board.reorder([["a"], ["b"]]);
  board.saveOrder();
  await settled();
  board.reorder([["b"], ["a"]]);
  board.saveOrder();
  await settled();
  assert.deepEqual(store.active.map((vote) => vote.order), [[["b"], ["a"]]]);
  board.undo();
  assert.deepEqual(board.model.order, [["a"], ["b"]]);
  await settled();
  assert.deepEqual(board.model.order, [["a"], ["b"]]);
});

test("a tournament of six ends after nine matches, and two of its standings swap", async () => {
  const { board, store } = await opened("side_by_side");
  assert.equal(board.model.tournament.planned, 9);
  for (let match = 0; match < 9; match++) board.choose(match % 2 ? "left" : "tie");
  const { tournament, ids } = board.model;
  assert.equal(tournament.phase, "standings");
  const [first, second] = tournament.standings.map((i) => ids[i]);
  board.swap(first, second);
  assert.equal(ids[board.model.tournament.standings[0]], second);
  await settled();
  assert.deepEqual(
    { up: store.active.at(-1).up, down: store.active.at(-1).down },
    { up: second, down: first },
  );
  board.more();
  assert.equal(board.model.tournament.phase, "match");
  board.undo();
  assert.equal(board.model.tournament.phase, "standings");
});

test("new images wait while a choice is open, else they are shown", async () => {
  const { board } = await opened();
  const other = { session: "s", set_id: "0000ffff" };
  board.pick("a");
  board.arrive(other);
  assert.equal(board.reference.set_id, reference.set_id);
  assert.equal(board.newer, other);
  board.undo();
  board.arrive(other);
  assert.equal(board.reference.set_id, other.set_id);
  assert.equal(board.newer, null);
});

test("new images wait while the pointer is on others that are not ranked yet", async () => {
  const { board } = await opened();
  const other = { session: "s", set_id: "0000ffff" };
  board.arrive(other, true);
  assert.equal(board.newer, other);
  board.pick("a");
  board.pick("b");
  await settled();
  board.arrive(other, true);
  assert.equal(board.reference.set_id, other.set_id);
});

test("every set of several runs is come to, none twice, until all are ranked", async () => {
  const store = new Store();
  store.others = ["00000004", "00000003", "00000002"];
  const { board } = await opened("best_worst", store);
  const come = [];
  while (board.nextUnranked || !board.isDone) {
    come.push(board.reference.set_id);
    board.pick("a");
    board.pick("b");
    await settled();
    assert.equal(board.unranked.length, 4 - come.length);
    board.showNextUnranked();
    await settled();
  }
  assert.deepEqual(come, [reference.set_id, "00000002", "00000003", "00000004"]);
  assert.equal(store.active.length, 4);
});

test("what came before the set on display is come to after what came later", async () => {
  const store = new Store();
  store.others = ["00000003", "00000002"];
  const { board } = await opened("best_worst", store);
  await board.show({ session: "s", set_id: "00000002" });
  await settled();
  assert.equal(board.nextUnranked.set_id, "00000003");
  await board.show({ session: "s", set_id: "00000003" });
  await settled();
  assert.equal(board.nextUnranked.set_id, reference.set_id);
});

test("where a round has begun, the sets before it are not asked for", async () => {
  const store = new Store();
  store.others = ["00000004", "00000003", "00000002"];
  const { board } = await opened("best_worst", store);
  board.since = "00000003";
  assert.deepEqual(board.asked.map((one) => one.set_id), ["00000004", "00000003"]);
  await board.show({ session: "s", set_id: "00000004" });
  await settled();
  assert.equal(board.nextUnranked.set_id, "00000003");
  board.showNextUnranked();
  await settled();
  assert.equal(board.unranked.length, 1);
  board.since = "gone";
  assert.equal(board.asked.length, 4);
});

test("pairs count what was chosen in other modes, and a choice before it is saved", async () => {
  const store = new Store();
  const { board } = await opened("best_worst", store);
  board.setPairsPerGroup(2);
  board.pick("a");
  board.pick("b");
  const two = (pairs) => pairs.map((pair) => [pair.chosen, pair.rejected]);
  assert.deepEqual(two(board.pairs), [["a", "b"]]);
  await settled();
  assert.deepEqual(board.pairs, store.view().pairs);
  board.setMode("rank");
  await settled();
  const order = { kind: "ranking", order: [["c"], ["d"]] };
  assert.deepEqual(two(board.pairsAfter(order)), [["a", "b"], ["c", "d"]]);
});

test("a vote on its way and in the answer counts once", () => {
  const vote = { id: "1", kind: "thumbs", labels: { a: "good" } };
  assert.deepEqual(votesNow([vote], [{ op: "vote", vote }]), [vote]);
  assert.deepEqual(votesNow([vote], [{ op: "undo", id: "2", target: "1" }]), []);
});

const ACTIONS = {
  best_worst: (board, n) => (n % 5 ? board.pick(IMAGES[n % 6]) : board.goOn()),
  rank(board, n) {
    if (n % 4 === 0) board.saveOrder();
    else board.reorder([...new Set([IMAGES[n % 6], IMAGES[(n >> 3) % 6]])].map((id) => [id]));
  },
  side_by_side(board, n) {
    if (board.model.tournament.phase === "match") {
      board.choose(["left", "right", "tie", "both_bad", "skip"][n % 5]);
    } else if (n % 2) {
      board.more();
    } else {
      board.swap(IMAGES[n % 6], IMAGES[(n >> 3) % 6]);
    }
  },
  thumbs: (board, n) => board.label(IMAGES[n % 6], ["good", "bad", "none"][n % 3]),
};

for (const [mode, act] of Object.entries(ACTIONS)) {
  test(`${mode}: any choices, undos and redos replay to what the page shows`, async () => {
    for (let seed = 1; seed <= 25; seed++) {
      const { board, store } = await opened(mode);
      let rng = seed;
      for (let i = 0; i < 30; i++) {
        let number;
        [number, rng] = draw(rng);
        const kind = (number >>> 16) % 8;
        if (kind === 0) board.undo();
        else if (kind === 1) board.redo();
        else act(board, number >>> 20);
        if (kind === 2) await settled();
      }
      await settled();
      const ids = (votes) => votes.map((vote) => vote.id);
      assert.equal(board.unsaved, 0);
      assert.deepEqual(ids(board.set.votes), ids(store.active));
      const replayed = await opened(mode, store);
      const shown = (model) => [model.tournament?.results, [...(model.labels ?? [])]];
      assert.deepEqual(shown(replayed.board.model), shown(board.model));
      assert.deepEqual(replayed.board.model.votes, board.model.votes);
    }
  });
}
