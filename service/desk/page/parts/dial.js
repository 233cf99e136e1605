// One control as a card: a neuron set, or neurons by address.

import { button, field, h, keepingFocus, newId, select } from "../dom.js";
import { nameOf, number } from "../words.js";
import { addressInput } from "./address.js";
import { knob } from "./knob.js";

const RANGE = [-1, 3];
const OPERATIONS = [["clamp", "clamp to"], ["amplify", "amplify by"], ["shift", "shift by"], ["prune", "silence"]];
const PHASES = [["all", "throughout"], ["prompt", "on the prompt"], ["generation", "on what is written"]];

/** <nd-dial>: `control` and the set's card `known` are given; says `turned`, `moved` and `removed`. */
export class Dial extends HTMLElement {
  connectedCallback() {
    this.draw();
  }

  draw() {
    const { control } = this;
    this.classList.toggle("off", Boolean(control.off));
    this.replaceChildren(this.head(), h("div", { class: "dial-body" }, control.set ? this.setParts() : this.neuronParts()), this.more());
  }

  say(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { bubbles: true, detail }));
  }

  /** Changes fields of the control; undefined takes one away. */
  turn(changes, redraw = false) {
    for (const [name, value] of Object.entries(changes)) {
      if (value === undefined) delete this.control[name];
      else this.control[name] = value;
    }
    if (redraw) keepingFocus(this, () => this.draw());
    this.say("turned");
  }

  head() {
    const { control } = this;
    const name = nameOf(control);
    const keys = (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (step) event.preventDefault();
      if (step) this.say("moved", { by: step });
    };
    this.grip = button("", null, { kind: "grip", drawn: "grip", name: `Move ${name}: arrow keys, or drag`, onkeydown: keys, onpointerdown: (event) => this.say("grabbed", { event }) });
    return h("div", { class: "dial-head" }, this.grip, h("h3", {}, control.set ?? "Neurons"),
      button("", () => this.turn({ off: control.off ? undefined : true }, true), { kind: "bare", drawn: "on", name: control.off ? `Switch ${name} on` : `Switch ${name} off`, "aria-pressed": String(!control.off) }),
      button("", () => this.say("removed"), { kind: "bare", drawn: "close", name: `Remove ${name}` }));
  }

  setParts() {
    const { control, known } = this;
    if (!known) return h("p", { class: "warn" }, "This model has no set of this name.");
    const name = newId();
    const labels = known.labels.map((label) => h("label", { class: "choice" },
      h("input", { type: "radio", name, checked: control.to === label, onchange: () => this.turn({ to: label }, true) }), h("span", {}, label)));
    const strengths = known.recommended.strength ?? {};
    return [h("fieldset", { class: "choices" }, h("legend", {}, "Move to"), labels),
      this.strength(strengths[control.to] ?? 1), this.neurons(), this.gate([["concept", "where the concept is"], ["all", "everywhere"]], known.recommended.where)];
  }

  neuronParts() {
    const { control } = this;
    const { input, parts } = addressInput(control.neurons ?? "", (neurons) => this.turn({ neurons }));
    input.id = newId();
    const value = h("input", { type: "number", step: "any", value: control.value ?? 2, "aria-label": "Value", onchange: (event) => this.turn({ value: event.target.valueAsNumber || 0 }) });
    const op = select(OPERATIONS, control.op, (chosen) => this.turn({ op: chosen, value: chosen === "prune" ? undefined : control.value ?? 2 }, true), { "aria-label": "Operation" });
    return [h("div", { class: "field wide" }, h("label", { for: input.id }, "Address"), parts),
      h("div", { class: "pair" }, op, control.op === "prune" ? null : value), this.strength(1), this.gate([["all", "everywhere"]], "all")];
  }

  strength(usual) {
    const { control } = this;
    const value = control.strength ?? usual;
    const picture = h("div", { class: "knob-box" }, knob(value, ...RANGE), h("output", {}, number(value)));
    const turned = (event) => {
      const strength = event.target.valueAsNumber;
      picture.replaceChildren(knob(strength, ...RANGE), h("output", {}, number(strength)));
      this.turn({ strength: strength === usual ? undefined : strength });
    };
    const slider = h("input", { type: "range", min: RANGE[0], max: RANGE[1], step: 0.05, value, oninput: turned });
    return h("div", { class: "strength" }, picture, field("Strength", slider));
  }

  neurons() {
    const { control, known } = this;
    const usual = known.recommended.top ?? known.num_neurons;
    const shown = h("output", {}, number(control.top ?? usual));
    const turned = (event) => {
      const top = event.target.valueAsNumber;
      shown.textContent = number(top);
      this.turn({ top: top === usual ? undefined : top });
    };
    const slider = h("input", { type: "range", min: 1, max: known.num_neurons, value: control.top ?? usual, oninput: turned });
    const made = field("Best neurons", slider);
    made.querySelector("label").append(" ", shown);
    return made;
  }

  gate(choices, usual) {
    const { control } = this;
    const isNeuron = typeof control.where === "object";
    const chosen = isNeuron ? "neuron" : control.where ?? usual;
    const change = (where) => this.turn({ where: where === "neuron" ? { neuron: "", above: 0 } : where === usual ? undefined : where }, true);
    return [field("Acts", select([...choices, ["neuron", "where a neuron is high"]], chosen, change)), isNeuron ? this.neuronGate() : null];
  }

  neuronGate() {
    const { where } = this.control;
    const { input, parts } = addressInput(where.neuron, (neuron) => this.turn({ where: { ...where, neuron } }), { "aria-label": "Neuron of the gate" });
    const above = h("input", { type: "number", step: "any", value: where.above ?? 0, onchange: (event) => this.turn({ where: { ...this.control.where, above: event.target.valueAsNumber || 0 } }) });
    input.id = newId();
    return h("div", { class: "nested" }, parts, field("above", above));
  }

  more() {
    const { control } = this;
    const op = control.set ? field("Operation", select([["", "recommended"], ["clamp", "clamp"], ["shift", "shift"], ["map", "map"], ["amplify", "amplify"], ["prune", "prune"]], control.op ?? "", (chosen) => this.turn({ op: chosen || undefined }))) : null;
    const phase = field("Phase", select(PHASES, control.phase ?? "all", (chosen) => this.turn({ phase: chosen === "all" ? undefined : chosen })));
    const sweep = button("Sweep five strengths", () => this.say("sweep"), { kind: "quiet small" });
    return h("details", { open: Boolean(control.op && control.set) || Boolean(control.phase) }, h("summary", {}, "More"), h("div", { class: "fields" }, op, phase), sweep);
  }
}

customElements.define("nd-dial", Dial);
