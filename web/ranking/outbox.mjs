// Choices on their way to the server, and the votes that count once they have arrived.
//
// An entry is {op: "vote", vote} or {op: "undo", id, target, restored?}: `target` is the id of
// the vote (or of the undo) struck out, `restored` what that brings back, as far as it is known.

/** The votes that count on a set, oldest first, with what is still in the outbox. */
export function votesNow(stored, outbox) {
  let votes = stored;
  for (const entry of outbox) {
    const added = entry.op === "vote" ? [entry.vote] : (entry.restored ?? []);
    const struck = entry.op === "vote" ? (entry.vote.strikes ?? []) : [entry.target];
    const there = new Set(votes.map((vote) => vote.id));
    votes = votes.filter((vote) => !struck.includes(vote.id));
    votes = [...votes, ...added.filter((vote) => !there.has(vote.id))];
  }
  return heard(votes);
}

// As on the server: a judge's word gives way where a person has said something.
function heard(votes) {
  const spoken = votes.some((vote) => vote.by !== "judge" && vote.result !== "skip");
  return spoken ? votes.filter((vote) => vote.by !== "judge") : votes;
}

/** Path and body of the request for an entry. */
export function request(session, entry) {
  const folder = `/dpo/sessions/${encodeURIComponent(session)}`;
  return entry.op === "vote"
    ? { path: `${folder}/votes`, body: entry.vote }
    : { path: `${folder}/undo`, body: { vote_id: entry.target, undo_id: entry.id } };
}

/** Whether the same request may succeed later; status 0 means that nothing answered. */
export function mayRetry(status) {
  return status === 0 || status >= 500 || [408, 409, 423, 425, 429].includes(status);
}

/** Seconds to wait before try number `tries` (from 1) is repeated by itself. */
export function retryDelay(tries) {
  return Math.min(2 ** tries, 30);
}

/** Entries kept by the browser, as they were; what is damaged is left out. */
export function readKept(text) {
  try {
    const kept = JSON.parse(text ?? "[]");
    return Array.isArray(kept) ? kept.filter(isEntry) : [];
  } catch {
    return [];
  }
}

function isEntry(entry) {
  if (entry?.op === "vote") return typeof entry.vote?.id === "string";
  return entry?.op === "undo" && typeof entry.id === "string" && typeof entry.target === "string";
}
