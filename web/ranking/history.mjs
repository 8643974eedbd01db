// Steps that can be taken back and taken again: an immutable past, present and future.

export const begin = (present) => ({ past: [], present, future: [] });

export function step({ past, present }, next) {
  return { past: [...past, present], present: next, future: [] };
}

export function back(history) {
  const { past, present, future } = history;
  if (!past.length) return history;
  return { past: past.slice(0, -1), present: past.at(-1), future: [present, ...future] };
}

export function forth(history) {
  const { past, present, future } = history;
  if (!future.length) return history;
  return { past: [...past, present], present: future[0], future: future.slice(1) };
}
