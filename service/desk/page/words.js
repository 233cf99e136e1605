// Controls and numbers in words.

const VERBS = { clamp: "set", amplify: "multiplied", shift: "shifted", prune: "silenced", map: "moved" };

/** A number with as many digits as it deserves. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return Number(value).toLocaleString("en", { maximumSignificantDigits: Math.abs(value) >= 10 ** digits ? undefined : digits, maximumFractionDigits: Math.abs(value) >= 10 ** digits ? 0 : undefined });
}

export const percent = (value) => `${number(100 * value)} %`;
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** What a control is called. */
export const nameOf = (control) => (control.set ? `${control.set}${control.to ? ` → ${control.to}` : ""}` : control.neurons || "neurons");

/** What a response reports of one control, as {fired, text}. */
export function reported(report) {
  const sites = Object.entries(report.sites ?? {});
  const fired = Math.max(0, ...sites.map(([, done]) => done.positions));
  const seen = Math.max(0, ...sites.map(([, done]) => done.seen));
  const where = sites.map(([site]) => site).join(", ");
  if (fired === 0) return { fired, text: `Its gate did not fire at any of ${counted(seen, "position")}: nothing was changed.` };
  const neurons = report.num_neurons ?? sites.reduce((sum, [, done]) => sum + (done.neurons ?? 0), 0);
  const strength = report.strength === undefined || report.strength === 1 ? "" : ` with strength ${number(report.strength)}`;
  const what = `${VERBS[report.op] ?? report.op} ${counted(neurons, "neuron")} of ${where}`;
  return { fired, text: `${what[0].toUpperCase()}${what.slice(1)} at ${number(fired)} of ${counted(seen, "position")}${strength}.` };
}

/** A vocabulary's piece as people read it. */
export function piece(token) {
  const text = token.replaceAll("▁", " ").replaceAll("Ġ", " ").replaceAll("Ċ", "⏎").replaceAll("</w>", " ");
  return text.trim() || "␣";
}
