// Differences of two texts, word by word: the longest common subsequence of their words.

const words = (text) => text.match(/[\p{L}\p{N}’'-]+|[^\s\p{L}\p{N}]+|\s+/gu) ?? [];
const MOST = 1_000_000; // cells of the table; beyond, whole texts are compared

/** Pieces [{kind: "same" | "gone" | "new", text}] that make `before` (without new) and `after` (without gone). */
export function diff(before, after) {
  const a = words(before);
  const b = words(after);
  if (a.length * b.length > MOST) return before === after ? [{ kind: "same", text: after }] : [{ kind: "gone", text: before }, { kind: "new", text: after }];
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * width + j] = a[i] === b[j] ? common[(i + 1) * width + j + 1] + 1 : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  const pieces = [];
  const add = (kind, text) => {
    if (pieces.at(-1)?.kind === kind) pieces.at(-1).text += text;
    else pieces.push({ kind, text });
  };
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add("same", a[i]); i++; j++; }
    else if (j >= b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) add("gone", a[i++]);
    else add("new", b[j++]);
  }
  return pieces;
}
