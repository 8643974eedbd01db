// What a `Board` needs of a page, whatever the host: requests, a timer, ids, and choices that
// outlive the page.

const KEPT = "dpo.unsaved.";

const kept = {
  all: () =>
    Object.keys(localStorage)
      .filter((key) => key.startsWith(KEPT))
      .map((key) => localStorage.getItem(key)),
  write(id, text) {
    try {
      localStorage.setItem(KEPT + id, text);
    } catch {
      // A full or forbidden storage: the choice still is on the page.
    }
  },
  drop: (id) => localStorage.removeItem(KEPT + id),
};

// getRandomValues, for pages that are not from this machine and not over https, have no randomUUID.
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((one) => one.toString(16).padStart(2, "0")).join("");
}

/**
 * The part of a board's port that is the same for every host.
 * @param {(path: string, options: object) => Promise<Response>} fetchPath `fetch` with the host's
 *   address before the path
 */
export function httpPort(fetchPath) {
  async function ask(path, options) {
    try {
      const response = await fetchPath(path, { cache: "no-store", ...options });
      return { status: response.status, body: await response.json().catch(() => null) };
    } catch {
      return { status: 0, body: null };
    }
  }
  return {
    get: (path) => ask(path),
    post: (path, body) =>
      ask(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      }),
    later(seconds, call) {
      const timer = setTimeout(call, 1000 * seconds);
      return () => clearTimeout(timer);
    },
    kept,
  };
}
