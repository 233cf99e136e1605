// Running a text through a model: streamed where it is written, whole where it is classified.

import { ask, stream } from "./api.js";
import { requestOf } from "./snippets.js";

/** Route and body of a stream; translations are streamed as completions, which know any model that writes. */
function streamed(request) {
  const [path, body] = requestOf(request.task === "translate" ? { ...request, task: "complete" } : request);
  return [path, body];
}

/**
 * Writes one text.
 *
 * `request` is {task, model, text, controls, settings}; `onText` is told what there is so far. Gives
 * {text, applied, finish, labels}.
 */
export async function write(request, onText, signal) {
  if (request.task === "classify") return classify(request, signal);
  const [path, body] = streamed(request);
  const result = { text: "", applied: null, finish: null };
  for await (const chunk of stream(path, body, signal)) {
    const choice = chunk.choices[0];
    if (!choice) continue;
    result.text += choice.text ?? choice.delta?.content ?? "";
    result.applied = choice.applied ?? result.applied;
    result.finish = choice.finish_reason ?? result.finish;
    onText(result.text);
  }
  result.text = result.text.trim();
  return result;
}

async function classify(request, signal) {
  const [path, body] = requestOf(request);
  const [found] = (await ask(path, { body, signal })).data;
  const text = found.words ? found.words.map((word) => `${word.text} (${word.label})`).join(" ") : found.label;
  return { text, applied: found.applied, finish: "stop", labels: found.probabilities };
}

/** What one gate sees at each token of a text: {tokens, marks, site}, or null where it reads nothing there. */
export async function gateOf(control, known, { model, text, target, isPaired }, signal) {
  const reading = { model, text, ...(isPaired && target ? { target } : {}) };
  if (typeof control.where === "object") {
    const { neuron, above = -Infinity, below = Infinity } = control.where;
    if (!neuron) return null;
    const [stack] = (await ask("v1/activations", { body: { ...reading, neurons: neuron }, signal })).data[0].stacks;
    const marks = stack.values.map(([value]) => ({ fired: value > above && value < below, text: "" }));
    return { tokens: stack.tokens, marks, site: neuron };
  }
  if (!control.set || (control.where ?? known?.recommended.where) !== "concept") return null;
  const { stacks } = (await ask("v1/activations", { body: { ...reading, set: control.set }, signal })).data[0];
  const stack = stacks.find((one) => one.readouts.length);
  const readout = stack?.readouts.at(-1);
  return readout ? { tokens: stack.tokens, marks: marksOf(readout, control.to), site: readout.site } : null;
}

/** Whether a concept's gate fires: at every label but the one that is moved to. */
function marksOf({ classes, scores }, to) {
  const single = classes.length === 2;
  return scores.map((row) => {
    const label = classes[row.indexOf(Math.max(...row))];
    const none = label === classes[0];
    return { fired: !none && (single || label !== to), text: none ? "" : label };
  });
}
