// An input for a neuron's address, completed from the model's own sites.

import { h, newId } from "../dom.js";
import { model } from "../state.js";

/** The sites of the chosen model: name → number of neurons. */
export const sitesOf = () => model()?.sites ?? {};

/** What an unfinished address can become; while the neuron is typed, which numbers there are. */
export function completions(sites, text) {
  const [site, inside] = text.split("[");
  if (inside !== undefined && sites[site]) return [`${site}[${inside.replace("]", "") || 0}]`];
  return Object.keys(sites).filter((name) => name.includes(text)).map((name) => `${name}[0]`);
}

/** A text input with completion; `onchange(address)` is told once it is left, or chosen. */
export function addressInput(value, onchange, props = {}) {
  const list = h("datalist", { id: newId() });
  const hint = h("small", { id: newId() }, "stack.layer.site[neuron], such as encoder.0.ffn[17]");
  const input = h("input", {
    type: "text", value, spellcheck: "false", autocomplete: "off", autocapitalize: "off", placeholder: "decoder.1.ffn[17,902]",
    list: list.id, class: "address", "aria-describedby": hint.id, ...props,
    onchange: (event) => onchange(event.target.value.trim()),
    oninput: () => suggest(),
  });
  function suggest() {
    const sites = sitesOf();
    list.replaceChildren(...completions(sites, input.value).slice(0, 40).map((option) => h("option", { value: option })));
    const width = sites[input.value.split("[")[0]];
    hint.textContent = width ? `neurons 0 to ${width - 1}; several as [3,7] or [0-15]` : "stack.layer.site[neuron], such as encoder.0.ffn[17]";
  }
  suggest();
  return { input, parts: [input, list, hint] };
}
