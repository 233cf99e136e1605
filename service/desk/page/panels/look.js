// Look: what neurons and read-outs do at every token of a text.

import { ask } from "../api.js";
import { button, field, h, keepingFocus, newId, notice, select, waiting } from "../dom.js";
import { addressInput, sitesOf } from "../parts/address.js";
import { heat } from "../parts/tokens.js";
import { bars } from "../parts/charts.js";
import { desk, keep, model, sets } from "../state.js";
import { number, piece } from "../words.js";
import { neuronPage } from "./neuron.js";

const SHOWN = 12; // neurons of a set, or of a token
const EXAMPLE = "The old man opened the door, and his two dogs are sleeping.";

/** <nd-look> */
class Look extends HTMLElement {
  connectedCallback() {
    desk.text ||= EXAMPLE;
    this.draw();
    this.show();
  }

  disconnectedCallback() {
    this.aborting?.abort();
  }

  draw() {
    const { look } = desk;
    const cards = sets();
    look.what ??= cards[0] ? `set:${cards[0].name}` : "";
    const text = h("textarea", { rows: 2, value: desk.text, onchange: (event) => { desk.text = event.target.value; keep(); this.show(); } });
    const change = (id) => { desk.model = id; desk.look = {}; keep(); keepingFocus(this, () => this.draw()); this.show(); };
    const asked = h("section", { class: "card ask", "aria-label": "What to read" },
      h("div", { class: "row fields" }, field("Model", select(desk.models.map((card) => card.id), model()?.id, change)), this.what(cards)),
      field("Text", text, { wide: true }), this.target(), h("div", { class: "row" }, button("Look", () => this.show(), { kind: "primary", drawn: "play" })));
    this.found = h("section", { class: "found", "aria-label": "Found" });
    this.aside = h("section", { class: "aside", "aria-label": "Neuron" });
    this.replaceChildren(asked, this.found, this.aside);
  }

  /** What to look at: a set, or an address. */
  what(cards) {
    const { look } = desk;
    const isSet = look.what.startsWith("set:");
    const choose = (what) => { look.what = what; keep(); keepingFocus(this, () => this.draw()); if (what) this.show(); };
    const options = [...cards.map((card) => [`set:${card.name}`, `the set ${card.name}`]), ["", "neurons by address"]];
    const made = field("Look at", select(options, isSet ? look.what : "", choose));
    if (isSet) return made;
    const { input, parts } = addressInput(look.what, choose);
    input.id = newId();
    const everyLayer = /\.\d+\./.test(look.what) ? button("Layer by layer", () => choose(look.what.replace(/\.\d+\./, ".*.")), { kind: "quiet small" }) : null;
    return [made, h("div", { class: "field grow" }, h("label", { for: input.id }, "Address"), parts), everyLayer];
  }

  target() {
    if (model()?.family !== "encoder-decoder") return null;
    const input = h("input", { type: "text", value: desk.look.target ?? "", placeholder: "what it would write; needed for neurons of the decoder", onchange: (event) => { desk.look.target = event.target.value || undefined; keep(); this.show(); } });
    return h("details", { open: Boolean(desk.look.target) }, h("summary", {}, "The decoder’s text"), field("Written text", input, { wide: true }));
  }

  body() {
    const { what, target } = desk.look;
    const asked = what.startsWith("set:") ? { set: what.slice(4) } : { neurons: what };
    return { model: model().id, text: desk.text, ...asked, ...(target ? { target } : {}) };
  }

  async show() {
    if (!desk.look.what || !desk.text.trim()) {
      this.found.replaceChildren(h("p", { class: "empty" }, "Name neurons, such as encoder.0.ffn[17], or decoder.*.resid[3] for every layer."));
      return;
    }
    keep();
    this.aborting?.abort();
    const { signal } = (this.aborting = new AbortController());
    this.found.replaceChildren(waiting("Reading the text"));
    this.aside.replaceChildren();
    try {
      const { stacks } = (await ask("v1/activations", { body: this.body(), signal })).data[0];
      this.found.replaceChildren(...stacks.map((stack) => this.stack(stack)));
    } catch (error) {
      if (!signal.aborted) this.found.replaceChildren(notice(error, () => this.show()));
    }
  }

  stack(stack) {
    const top = h("div", { class: "top" });
    const choose = (index) => this.chooseToken(stack, index, top);
    const gates = stack.readouts.flatMap((readout) => readout.classes.slice(1).map((label, place) => row(`${label}`, heat(stack.tokens, probabilities(readout, place + 1), { scale: 1, choose }), `read-out at ${readout.site}`)));
    const columns = stack.neurons.slice(0, SHOWN).map((address, place) => {
      const values = stack.values.map((numbers) => numbers[place]);
      return row(button(address, () => this.openNeuron(address), { kind: "link" }), heat(stack.tokens, values, { choose }), `from ${number(Math.min(...values))} to ${number(Math.max(...values))}`);
    });
    const more = stack.neurons.length > SHOWN ? h("p", { class: "hint" }, `The first ${SHOWN} of ${number(stack.neurons.length)} neurons.`) : null;
    return h("section", { class: "card" }, h("h2", {}, stack.stack === "encoder" ? "Encoder" : "Decoder"), h("p", { class: "hint" }, "Warm is above zero, cold below. Choose a token for its top neurons, or an address for the neuron’s page."),
      gates.length ? h("div", { class: "heat" }, gates) : null, h("div", { class: "heat" }, columns), more, top);
  }

  /** The neurons of one site that stand out at a token. */
  async chooseToken(stack, index, box) {
    const sites = Object.keys(sitesOf()).filter((site) => site.startsWith(stack.stack));
    const first = stack.neurons[0]?.split("[")[0];
    const load = async (site) => {
      for (const token of this.found.querySelectorAll("button.token")) token.setAttribute("aria-pressed", "false");
      const chooser = field("Site", select(sites, site, load));
      box.replaceChildren(h("h3", {}, "Top neurons at “", piece(stack.tokens[index]), "”"), chooser, waiting("Reading the site"));
      try {
        const body = { ...this.body(), set: undefined, neurons: `${site}[*]` };
        const read = (await ask("v1/activations", { body })).data[0].stacks.find((one) => one.stack === stack.stack);
        box.replaceChildren(box.firstChild, chooser, standingOut(read, index, (address) => this.openNeuron(address)));
      } catch (error) {
        box.replaceChildren(box.firstChild, chooser, notice(error, () => load(site)));
      }
      box.scrollIntoView({ block: "nearest" });
    };
    await load(sites.includes(first) ? first : sites[0]);
  }

  async openNeuron(address) {
    this.aside.replaceChildren(waiting(`Looking ${address} up`));
    const page = await neuronPage(address, () => this.aside.replaceChildren());
    this.aside.replaceChildren(page);
    page.querySelector("h2").focus();
    page.scrollIntoView({ block: "nearest" });
  }
}

const row = (name, tokens, hint) => h("div", { class: "heat-row" }, h("div", { class: "heat-name" }, name, h("small", {}, hint)), tokens);

/** Of one class at every token, from the read-out's scores. */
function probabilities({ scores }, place) {
  return scores.map((numbers) => {
    const top = Math.max(...numbers);
    const powers = numbers.map((score) => Math.exp(score - top));
    return powers[place] / powers.reduce((sum, power) => sum + power, 0);
  });
}

/** The neurons whose value at a token is furthest from their mean over the text. */
function standingOut({ neurons, values }, index, open) {
  const ranked = neurons.map((address, place) => {
    const mean = values.reduce((sum, numbers) => sum + numbers[place], 0) / values.length;
    return { address, value: values[index][place], away: values[index][place] - mean };
  });
  ranked.sort((a, b) => Math.abs(b.away) - Math.abs(a.away));
  const rows = ranked.slice(0, SHOWN).map(({ address, value, away }) => ({
    label: button(address, () => open(address), { kind: "link" }), value: away, text: `${number(value)} (${away > 0 ? "+" : "−"}${number(Math.abs(away))})`, kind: away < 0 ? "cold" : "hot",
  }));
  return bars(rows, { title: "Value, and how far it lies from the neuron’s mean over this text" });
}

customElements.define("nd-look", Look);
