// A neuron's page: its calibration, its sets, and what happens to the next token when it is silenced or turned up.

import { ask } from "../api.js";
import { button, field, h, notice, waiting } from "../dom.js";
import { bars, pairs, shares } from "../parts/charts.js";
import { desk, keep, model, task } from "../state.js";
import { number } from "../words.js";

const SHOWN = 5;

/** The page of one neuron; `close` takes it away. */
export async function neuronPage(address, close) {
  const head = h("div", { class: "row spread" }, h("h2", { tabindex: -1, class: "address" }, address), button("", close, { kind: "bare", drawn: "close", name: "Close" }));
  let card;
  try {
    card = await ask(`v1/neurons/${encodeURIComponent(address)}`, { query: { model: model().id } });
  } catch (error) {
    return h("article", { class: "card neuron" }, head, notice(error));
  }
  const writes = task() && task() !== "classify";
  return h("article", { class: "card neuron" }, head, calibration(card), memberships(card), writes ? effect(address) : null, h("div", { class: "row" }, writes ? button("Add as a dial in Play", () => toPlay(address), { drawn: "plus", kind: "quiet" }) : null));
}

function calibration({ site, width, mean, std, tokens }) {
  const measured = mean === null ? "This model is served without a calibration." : pairs([["Mean", number(mean)], ["Deviation", number(std)], ["Over", `${number(tokens)} tokens`]]);
  return h("section", {}, h("p", {}, `One of ${number(width)} neurons of ${site}. `), measured);
}

function memberships({ sets }) {
  if (!sets.length) return h("p", { class: "hint" }, "It belongs to no set that is served.");
  return sets.map(({ set, rank, score, means }) => h("section", {}, h("h3", {}, "In the set ", set), h("p", {}, `Number ${rank} by its score, ${number(score)}.`),
    bars(Object.entries(means).map(([label, value]) => ({ label, value, kind: value < 0 ? "cold" : "hot" })), { title: "Mean activation by label" })));
}

/** The likeliest next tokens, as the neuron is and as it is made. */
function effect(address) {
  const box = h("div", { class: "panes" });
  const factor = h("input", { type: "number", step: "any", value: 0 });
  const show = async () => {
    box.replaceChildren(waiting("Asking for the next token"));
    const value = factor.valueAsNumber || 0;
    try {
      const [plain, changed] = await Promise.all([nextTokens([]), nextTokens([{ neurons: address, op: "amplify", value }])]);
      box.replaceChildren(tokensOf("As it is", plain), tokensOf(`Times ${number(value)}`, changed));
    } catch (error) {
      box.replaceChildren(notice(error, show));
    }
  };
  return h("section", {}, h("h3", {}, "Effect on the next token"), h("div", { class: "row bottom" }, field("Multiply it by", factor, { hint: "0 silences it" }), button("Show", show, { kind: "quiet" })), box);
}

async function nextTokens(controls) {
  const body = { model: model().id, prompt: desk.text, max_tokens: 1, logprobs: SHOWN, controls };
  const [choice] = (await ask("v1/completions", { body })).choices;
  return Object.entries(choice.logprobs?.top_logprobs[0] ?? {}).sort((a, b) => b[1] - a[1]);
}

const tokensOf = (title, found) => h("div", {}, shares(found.map(([token, logprob]) => ({ label: token.trim() || "space", value: Math.exp(logprob) })), { title }));

function toPlay(address) {
  desk.controls.push({ neurons: address, op: "amplify", value: 2 });
  desk.panel = "play";
  keep();
  window.dispatchEvent(new Event("hashchange"));
}
