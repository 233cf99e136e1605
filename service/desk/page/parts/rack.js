// The dials of a request, in the order in which they act.

import { button, h, say, select } from "../dom.js";
import { desk, keep, sets } from "../state.js";
import { nameOf } from "../words.js";
import "./dial.js";

/** <nd-rack>: shows `desk.controls`; says `controls-changed`, and `sweep` with a control's number. */
export class Rack extends HTMLElement {
  connectedCallback() {
    this.draw();
    this.addEventListener("turned", () => this.changed());
    this.addEventListener("moved", (event) => this.move(event.target, event.detail.by));
    this.addEventListener("removed", (event) => this.remove_(event.target));
    this.addEventListener("grabbed", (event) => this.drag(event.target, event.detail.event));
  }

  draw() {
    this.list = h("div", { class: "dials" }, desk.controls.map((control) => this.dial(control)));
    this.empty = h("p", { class: "empty" }, sets().length ? "No dial yet. Add a set to move a concept, or neurons by their address." : "This model has no neuron sets. Add neurons by their address.");
    this.replaceChildren(h("div", { class: "rack-head" }, h("h2", {}, "Dials"), this.adding()), this.empty, this.list);
    this.empty.hidden = desk.controls.length > 0;
  }

  adding() {
    const named = sets().map((card) => card.name);
    const unused = named.find((name) => !desk.controls.some((control) => control.set === name));
    const pick = select(named, unused ?? named[0], () => undefined, { "aria-label": "Neuron set", class: "small" });
    const set = named.length ? h("div", { class: "adder" }, pick, button("Set", () => this.add(pick.value), { drawn: "plus", kind: "small", name: "Add the set" })) : null;
    return h("div", { class: "row" }, set, button("Neurons", () => this.append_({ neurons: "", op: "amplify", value: 2 }), { drawn: "plus", kind: "small quiet", name: "Add neurons" }));
  }

  add(name) {
    const card = sets().find((one) => one.name === name);
    const strengths = Object.keys(card.recommended.strength ?? {});
    this.append_({ set: name, to: strengths.length === 1 ? strengths[0] : card.labels.at(-1) });
  }

  append_(control) {
    desk.controls.push(control);
    this.draw();
    this.list.lastElementChild.querySelector("input")?.focus();
    this.changed();
  }

  dial(control) {
    const made = document.createElement("nd-dial");
    Object.assign(made, { control, known: sets().find((card) => card.name === control.set?.split("@")[0]) });
    return made;
  }

  remove_(dial) {
    desk.controls = desk.controls.filter((control) => control !== dial.control);
    dial.remove();
    this.empty.hidden = desk.controls.length > 0;
    this.querySelector(".adder button, button")?.focus();
    this.changed();
  }

  move(dial, by) {
    const from = desk.controls.indexOf(dial.control);
    const to = from + by;
    if (to < 0 || to >= desk.controls.length) return;
    desk.controls.splice(to, 0, ...desk.controls.splice(from, 1));
    const others = [...this.list.children].filter((one) => one !== dial);
    this.list.insertBefore(dial, others[to] ?? null);
    dial.grip.focus();
    say(`${nameOf(dial.control)} is number ${to + 1} of ${desk.controls.length}`);
    this.changed();
  }

  /** Moves a dial with the pointer until it is let go. */
  drag(dial, event) {
    event.preventDefault();
    dial.classList.add("dragged");
    const follow = ({ clientY }) => {
      const others = [...this.list.children].filter((one) => one !== dial);
      const to = others.filter((one) => clientY > one.getBoundingClientRect().top + one.offsetHeight / 2).length;
      const by = to - desk.controls.indexOf(dial.control);
      if (by) this.move(dial, by);
    };
    const end = () => {
      dial.classList.remove("dragged");
      document.removeEventListener("pointermove", follow);
    };
    document.addEventListener("pointermove", follow);
    document.addEventListener("pointerup", end, { once: true });
    document.addEventListener("pointercancel", end, { once: true });
  }

  changed() {
    keep();
    this.dispatchEvent(new CustomEvent("controls-changed", { bubbles: true }));
  }
}

customElements.define("nd-rack", Rack);
