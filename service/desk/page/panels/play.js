// Play: a text, dials, and what the model writes with and without them.

import { hasKey } from "../api.js";
import { button, field, h, keepingFocus, newId, select } from "../dom.js";
import { active, desk, keep, model, sets, task, tasksOf } from "../state.js";
import { snippets } from "../snippets.js";
import "../parts/rack.js";
import { Output } from "./output.js";

const EXAMPLES = {
  translate: "A tall boy is standing in the doorway.",
  complete: "The capital of France is",
  chat: "What is a neuron?",
  classify: "She opens the door.",
};
const NAMES = { translate: "Translate", complete: "Complete", chat: "Chat", classify: "Classify" };
const PATIENCE_MS = 400; // after a dial was moved

/** <nd-play> */
class Play extends HTMLElement {
  connectedCallback() {
    this.firstVisit();
    this.output = new Output(this);
    this.draw();
    this.addEventListener("controls-changed", () => this.later());
    this.addEventListener("sweep", (event) => this.output.sweep(desk.controls.indexOf(event.target.control)));
    if (task()) this.output.run();
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
    this.output.stop();
  }

  /** A newcomer finds an example that the first model can do. */
  firstVisit() {
    const isNew = !desk.text && !desk.controls.length;
    desk.text ||= EXAMPLES[task()] ?? "";
    if (!isNew) return;
    const card = sets().find((one) => one.labels.includes("past")) ?? sets()[0];
    if (card) desk.controls = [{ set: card.name, to: card.labels.includes("past") ? "past" : card.labels.at(-1) }];
  }

  draw() {
    const chosen = model();
    if (!task()) {
      this.replaceChildren(this.models(), h("p", { class: "notice" }, `${chosen?.id ?? "This model"} reads text and writes none: look at its neurons under Look.`));
      return;
    }
    this.text = h("textarea", { rows: 3, value: desk.text, oninput: (event) => { desk.text = event.target.value; keep(); },
      onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.output.run(); } });
    const run = button(NAMES[task()], () => this.output.run(), { kind: "primary", drawn: "play" });
    const ask = h("section", { class: "card ask", "aria-label": "What to write" }, this.models(),
      field("Text", this.text, { wide: true }), h("div", { class: "row spread" }, h("div", { class: "row" }, run, h("small", { class: "keys" }, h("kbd", {}, "Ctrl"), " ", h("kbd", {}, "Enter"))), this.settings()));
    this.replaceChildren(ask, h("section", { class: "card rack", "aria-label": "Dials" }, document.createElement("nd-rack")), this.output.element, this.copying());
  }

  models() {
    const change = (id) => {
      desk.model = id;
      desk.controls = desk.controls.filter((control) => !control.set || sets().some((card) => card.name === control.set));
      if (Object.values(EXAMPLES).includes(desk.text)) desk.text = EXAMPLES[task()] ?? desk.text;
      keep();
      this.output.clear();
      keepingFocus(this, () => this.draw());
    };
    const kinds = tasksOf(model());
    const tasks = kinds.length > 1 ? field("Task", select(kinds.map((kind) => [kind, NAMES[kind]]), task(), (kind) => { desk.task = kind; keep(); keepingFocus(this, () => this.draw()); })) : null;
    const pair = desk.about?.languages[model()?.id];
    return h("div", { class: "row fields" }, field("Model", select(desk.models.map((card) => card.id), model()?.id, change)), tasks,
      pair ? h("p", { class: "pairing" }, languageOf(pair[0]), " → ", languageOf(pair[1])) : null);
  }

  settings() {
    const { settings } = desk;
    const change = (name) => (event) => {
      const value = event.target.valueAsNumber;
      if (Number.isNaN(value)) delete settings[name];
      else settings[name] = value;
      keep();
    };
    const input = (name, label, props) => field(label, h("input", { type: "number", value: settings[name] ?? "", placeholder: "usual", onchange: change(name), ...props }));
    if (task() === "classify") return null;
    const samples = task() !== "translate";
    return h("details", { class: "settings", open: Object.keys(settings).length > 0 }, h("summary", {}, "Settings"), h("div", { class: "fields" },
      input("max_tokens", "Most tokens", { min: 1 }), input("num_beams", "Beams", { min: 1 }),
      samples ? input("temperature", "Temperature", { min: 0, step: 0.1 }) : null, samples ? input("seed", "Seed", {}) : null));
  }

  copying() {
    const box = h("div", { class: "snippets" });
    const id = newId();
    const show = () => {
      const made = snippets(this.request(), hasKey());
      const code = h("code", {});
      const choose = (index) => {
        code.textContent = made[index][1];
        for (const [place, tab] of [...tabs.children].entries()) tab.setAttribute("aria-pressed", String(place === index));
      };
      const tabs = h("div", { class: "row tabs", role: "group", "aria-label": "Language" }, made.map(([name], index) => button(name, () => choose(index), { kind: "quiet small" })));
      box.replaceChildren(h("div", { class: "row spread" }, tabs, copyButton("Copy", () => code.textContent)), h("pre", { tabindex: 0, id }, code));
      choose(0);
    };
    const details = h("details", { class: "card copying", ontoggle: (event) => { if (event.target.open) show(); } }, h("summary", {}, "The same as code"), box);
    const link = copyButton("Copy a link to all of this", () => { keep(); return location.href; }, "link");
    this.refreshSnippets = () => { if (details.open) show(); };
    return h("section", { class: "foot", "aria-label": "Take it away" }, details, link);
  }

  request() {
    return { task: task(), model: model().id, text: desk.text, controls: active(), settings: { ...desk.settings } };
  }

  later() {
    this.refreshSnippets?.();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.output.run(), PATIENCE_MS);
  }
}

function languageOf(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(code);
  } catch {
    return code; // not a language's code: a configuration may say anything
  }
}

/** A button that puts a text on the clipboard and says so. */
function copyButton(text, made, drawn = "copy") {
  const copied = async () => {
    try {
      await navigator.clipboard.writeText(made());
      shown.querySelector("span").textContent = "Copied";
    } catch {
      shown.querySelector("span").textContent = "The browser does not allow it"; // no clipboard without HTTPS
    }
    setTimeout(() => { shown.querySelector("span").textContent = text; }, 2000);
  };
  const shown = button(text, copied, { kind: "quiet small", drawn });
  return shown;
}

customElements.define("nd-play", Play);
