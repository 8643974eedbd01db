// What is said of a comparison.

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
/** Between a number and its sign, which stay on one line. */
const NARROW = "\u00a0";
const percent = (part) => Math.round(100 * part);

/** How far it is, in the line below the pictures. */
export function progressText({ couples, answered, view }) {
  if (!view) return "";
  const since = view.result && view.hidden ? `, ${view.hidden} since the reveal` : "";
  return `${answered} of ${counted(couples.length, "couple")} judged${since}`;
}

/** What there is to say before anything may be told. */
export function openText({ couples, answered, allAnswered, mayReveal, view }) {
  if (!view) return { title: "", text: "" };
  if (!couples.length) {
    return {
      title: "There is nothing to compare",
      text: "Both sides drew the very same pictures. Is the LoRA loaded, and with a strength?",
    };
  }
  const all = couples.length === 1 ? "The couple is judged" : `All ${couples.length} are judged`;
  const title = allAnswered ? all : `${answered} of ${couples.length} judged`;
  if (!mayReveal) return { title, text: "You passed over all of them: nothing can be revealed." };
  const rest = view.hidden < couples.length ? " The others stay hidden." : "";
  const judged = view.hidden > answered;
  const judges = judged ? " What judges said of couples that you did not judge is told, too." : "";
  return {
    title,
    text:
      "Reveal which pictures are whose, and how often you preferred which. What you said of " +
      `them then stays as it is.${judges}${rest}`,
  };
}

/** How often B is preferred, for the large number. */
export const shareText = ({ share }) => `${percent(share.value)}${NARROW}%`;

/** What the share is made of. */
export function numbersText({ sides: [a, b], a: wonByA, b: wonByB, ties, identical, share }) {
  const won = `${b.name} ${counted(wonByB, "time")}, ${a.name} ${counted(wonByA, "time")}`;
  const same = identical ? ` (${identical} the very same picture)` : "";
  const all = ties + identical;
  const tied = all ? `; ${counted(all, "tie")}${same}, each counting one half` : "";
  const range = `${percent(share.low)} to ${percent(share.high)}${NARROW}%`;
  return `Preferred: ${won}${tied}. The 95${NARROW}% interval is ${range}.`;
}

/** Who judged, what the sides are made with, and what is left out. */
export function detailsOf({ sides, judged_by, changed }) {
  const made = sides
    .filter((side) => side.made_with)
    .map((side) => `${side.name}: ${side.made_with}`);
  const late = changed
    ? [`${counted(changed, "choice")} made or changed after the reveal: not blind, not counted.`]
    : [];
  return [...(judged_by ? [`Judged by: ${judged_by}`] : []), ...made, ...late];
}

/** One prompt's couples. */
export function promptText({ sides: [a, b] }, row) {
  const ties = row.ties + row.identical;
  return `${b.name} ${row.b}, ${a.name} ${row.a}${ties ? `, ${counted(ties, "tie")}` : ""}`;
}

/** Where the pictures of a revealed couple stand. */
export const placesText = ({ sides: [a, b] }) => `Left ${a.name}, right ${b.name}:`;

/** What was said of a revealed couple. */
export function coupleText({ sides: [a, b] }, { result, by }) {
  const said = result === "tie" ? "a tie" : `${(result === "a" ? a : b).name} preferred`;
  return by ? `${said}, by ${by}` : said;
}
