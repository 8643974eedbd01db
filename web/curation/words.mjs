// How numbers of things are said.

export function counted(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

export function copies(count) {
  return count === 1 ? "1 exact copy folded" : `${count} exact copies folded`;
}
