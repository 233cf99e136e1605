// What the model writes: without and with the dials, what differs, where the gates fired, and a dial's sweep.

import { diff } from "../diff.js";
import { button, h, notice, say } from "../dom.js";
import { gateOf, write } from "../generate.js";
import { shares } from "../parts/charts.js";
import { marked } from "../parts/tokens.js";
import { active, desk, keep, model, sets } from "../state.js";
import { nameOf, number, reported } from "../words.js";

const SLOW_MS = 2500;
const STEPS = [0, 0.5, 1, 1.5, 2];

export class Output {
  constructor(play) {
    this.play = play;
    this.element = h("section", { class: "output", "aria-label": "Results" });
  }

  clear() {
    this.stop();
    this.element.replaceChildren();
  }

  stop() {
    this.aborting?.abort();
    clearInterval(this.clock);
  }

  /** Begins something that can be stopped; gives its signal. */
  begin() {
    this.stop();
    this.aborting = new AbortController();
    return this.aborting.signal;
  }

  async run() {
    const request = this.play.request();
    if (!request.text.trim()) return;
    keep();
    this.play.refreshSnippets?.();
    const signal = this.begin();
    if (request.settings.temperature > 0) request.settings.seed ??= Math.floor(Math.random() * 2 ** 31);
    const without = pane("Without");
    const isControlled = request.controls.length > 0;
    const withDials = isControlled ? pane("With") : null;
    const under = h("div", { class: "under" });
    this.element.replaceChildren(h("div", { class: isControlled ? "panes" : "panes one" }, without.element, withDials?.element), this.watch(signal), under);
    try {
      const [plain, dialled] = await Promise.all([
        write({ ...request, controls: [] }, (text) => without.write(text), signal),
        isControlled ? write(request, (text) => withDials.write(text), signal) : null,
      ]);
      this.compare(without, plain, withDials, dialled);
      if (dialled) this.explain(under, request, dialled, signal);
    } catch (error) {
      if (!signal.aborted) this.fail(error, [without, withDials]);
    } finally {
      if (!signal.aborted) this.idle();
    }
  }

  /** After a while says that it takes long, and offers to stop. */
  watch(signal) {
    const started = performance.now();
    const box = h("div", { class: "watch" });
    const show = () => {
      const seconds = (performance.now() - started) / 1000;
      if (seconds * 1000 < SLOW_MS || signal.aborted) return;
      if (!box.firstChild) {
        box.append(h("span", { class: "pulse" }), h("span", { role: "status" }, "Still waiting for the server"), h("span", { class: "seconds" }),
          button("Stop", () => { this.stop(); this.idle(); this.element.querySelectorAll(".pane.busy").forEach((one) => one.classList.remove("busy")); }, { kind: "quiet small" }));
      }
      box.querySelector(".seconds").textContent = `${Math.round(seconds)} s`;
    };
    this.clock = setInterval(show, 500);
    this.watching = box;
    return box;
  }

  idle() {
    clearInterval(this.clock);
    this.watching?.replaceChildren();
  }

  fail(error, panes) {
    for (const one of panes) one?.element.classList.remove("busy");
    this.watching.after(notice(error, () => this.run()));
    const field = error.param?.match(/^controls\[(\d+)\]/);
    if (field) document.querySelectorAll("nd-dial:not(.off)")[Number(field[1])]?.classList.add("wrong");
  }

  compare(without, plain, withDials, dialled) {
    document.querySelectorAll("nd-dial.wrong").forEach((one) => one.classList.remove("wrong"));
    if (!dialled) {
      without.end(plain);
      return;
    }
    const pieces = diff(plain.text, dialled.text);
    without.end(plain, pieces.filter((one) => one.kind !== "new"));
    withDials.end(dialled, pieces.filter((one) => one.kind !== "gone"));
    const same = plain.text === dialled.text;
    if (same) withDials.note("The dials changed nothing in this text.");
    say(same ? "The same with and without the dials" : `With the dials: ${dialled.text}`);
  }

  /** What was applied, in words, and where each gate fired. */
  async explain(under, request, dialled, signal) {
    const list = h("ul", { class: "applied" });
    under.append(h("section", { class: "card", "aria-label": "Applied" }, h("h2", {}, "What was done"), list));
    const reports = dialled.applied?.controls ?? [];
    const source = { model: request.model, text: request.text, target: dialled.text, isPaired: model().family === "encoder-decoder" };
    await Promise.all(reports.map(async (report, index) => {
      const control = request.controls[index] ?? report;
      const { fired, text } = reported(report);
      const gates = h("div", { class: "gate" });
      list.append(h("li", { class: fired ? "" : "idle" }, h("strong", {}, nameOf(report)), h("p", {}, text), gates));
      await showGate(gates, control, source, fired, signal);
    }));
  }

  /** The same text under five strengths of one dial. */
  async sweep(index) {
    const request = this.play.request();
    const place = desk.controls.slice(0, index).filter((one) => !one.off).length;
    const control = active()[place];
    if (!control || desk.controls[index].off) return;
    const card = sets().find((one) => one.name === control.set);
    const usual = control.strength || card?.recommended.strength?.[control.to] || 1;
    const signal = this.begin();
    const rows = STEPS.map((step) => ({ strength: step * usual, cell: h("td", { class: "pulse-cell" }, "…") }));
    const table = h("table", { class: "sweep" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Strength"), h("th", { scope: "col" }, "Text"))),
      h("tbody", {}, rows.map(({ strength, cell }) => h("tr", {}, h("th", { scope: "row" }, number(strength)), cell))));
    const box = h("section", { class: "card", "aria-label": "Sweep" }, h("h2", {}, `Sweep of ${nameOf(control)}`), table);
    this.element.replaceChildren(box, this.watch(signal));
    const turned = (strength) => request.controls.map((one, at) => (at === place ? { ...one, strength } : one));
    try {
      const found = await Promise.all(rows.map(({ strength }) => write({ ...request, controls: turned(strength) }, () => undefined, signal)));
      rows.forEach(({ cell }, at) => cell.replaceChildren(...pieces(diff(found[0].text, found[at].text).filter((one) => one.kind !== "gone"))));
      box.scrollIntoView({ block: "nearest" });
      say("The sweep is done");
    } catch (error) {
      if (!signal.aborted) box.append(notice(error, () => this.sweep(index)));
    } finally {
      if (!signal.aborted) this.idle();
    }
  }
}

async function showGate(box, control, source, fired, signal) {
  const card = sets().find((one) => one.name === control.set?.split("@")[0]);
  try {
    const gate = await gateOf(control, card, source, signal);
    if (!gate) return;
    box.append(h("small", {}, `What its gate saw at ${gate.site}:`), marked(gate.tokens, gate.marks));
    if (!fired) box.append(h("p", { class: "hint" }, `Nothing here reads as another label of ${control.set ?? "the gate"}. Try another sentence, or let it act everywhere.`));
  } catch (error) {
    if (!signal.aborted) box.append(h("small", {}, `The gate cannot be shown: ${error.message}`));
  }
}

const pieces = (list) => list.map(({ kind, text }) => (kind === "same" ? text : h(kind === "new" ? "ins" : "del", {}, text)));

/** One side of the comparison. */
function pane(title) {
  const text = h("p", { class: "written", lang: "" });
  const element = h("article", { class: "pane card busy" }, h("h2", {}, title), text);
  return {
    element,
    write: (so_far) => { text.textContent = so_far; },
    note: (said) => element.append(h("small", { class: "hint" }, said)),
    end: (result, parts) => {
      element.classList.remove("busy");
      text.replaceChildren(...(parts ? pieces(parts) : [result.text]));
      if (!result.text) text.replaceChildren(h("em", {}, "nothing"));
      if (result.finish === "length") element.append(h("small", {}, "Cut off at the most tokens."));
      if (result.labels) element.append(shares(Object.entries(result.labels).map(([label, value]) => ({ label, value }))));
    },
  };
}
