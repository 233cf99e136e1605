// Sets: the catalogue with its evidence, and what an administrator can do with it.

import { ask } from "../api.js";
import { button, field, h, keepingFocus, newId, notice, say, select, waiting } from "../dom.js";
import { desk, keep, model, sets } from "../state.js";
import { number } from "../words.js";
import { evidence } from "./evidence.js";

const TRIAL = ".trial";
const ACTIONS = { publish: "published", delete: "deleted", rollback: "rolled back", configure: "configured" };

/** Reads the catalogue anew. */
export async function loadSets() {
  desk.sets = (await ask("v1/controls")).data;
}

/** <nd-sets> */
class Sets extends HTMLElement {
  connectedCallback() {
    this.draw();
    this.refresh();
  }

  async refresh() {
    try {
      await loadSets();
      this.fill();
    } catch (error) {
      this.list.replaceChildren(notice(error, () => this.refresh()));
    }
  }

  draw() {
    const change = (id) => { desk.model = id; keep(); keepingFocus(this, () => this.draw()); };
    const admin = desk.about?.key.admin;
    this.list = h("div", { class: "set-list" });
    this.count = h("p", { class: "pairing" });
    this.replaceChildren(h("section", { class: "card ask", "aria-label": "Catalogue" }, h("div", { class: "row fields" }, field("Model", select(desk.models.map((one) => one.id), model()?.id, change)), this.count)),
      this.list, admin ? this.upload() : h("p", { class: "hint" }, "To publish, roll back or see the audit log, enter an administrator’s key (the key symbol above)."), admin ? this.audit() : null);
    this.fill();
  }

  /** Shows the catalogue as it is known; what is being entered below stays. */
  fill() {
    this.count.textContent = `${sets().length} sets`;
    this.list.replaceChildren(...sets().map((card) => this.card(card)));
    if (!sets().length) this.list.append(h("p", { class: "empty" }, "This model has no neuron sets yet. neurodial discover finds one in a minute; then publish it here."));
  }

  card(card) {
    const admin = desk.about?.key.admin;
    const back = admin && card.history.length ? button("Roll back", () => this.change(card, `v1/controls/${encodeURIComponent(card.name)}/rollback`, "POST", "rolled back"), { kind: "quiet small" }) : null;
    const remove = admin ? button("Delete", (event) => this.confirm(event.currentTarget, card), { kind: "quiet small danger" }) : null;
    return h("article", { class: "card set" }, h("div", { class: "row spread" }, h("h2", {}, card.name), h("div", { class: "row" }, button("Try in Play", () => this.toPlay(card), { kind: "small", drawn: "play" }), back, remove)),
      h("p", {}, `${number(card.num_neurons)} neurons of ${card.sites.join(", ")}; `, card.labels.map((label, index) => [index ? " ↔ " : "", h("span", { class: "tag" }, label)])),
      h("p", { class: "digest" }, card.digest.slice(0, 19), card.history.length ? ` · ${card.history.length} earlier` : "", ` · ${card.recommended.op ?? "no advice"}, ${card.recommended.where === "concept" ? "gated" : "everywhere"}`),
      evidence(card.evidence));
  }

  /** Deleting asks once more, in the same place. */
  confirm(pressed, card) {
    const sure = button("Really delete", () => this.change(card, `v1/controls/${encodeURIComponent(card.name)}`, "DELETE", "deleted"), { kind: "small danger" });
    pressed.replaceWith(sure);
    sure.focus();
  }

  async change(card, path, method, done) {
    try {
      await ask(path, { method, query: { model: card.model } });
      say(`${card.name} was ${done}`);
      await this.refresh();
      this.loadAudit();
    } catch (error) {
      this.list.prepend(notice(error));
    }
  }

  toPlay(card) {
    desk.controls = [{ set: card.name, to: card.labels.at(-1) }];
    desk.model = card.model;
    desk.panel = "play";
    keep();
    window.dispatchEvent(new Event("hashchange"));
  }

  upload() {
    const said = h("div", { class: "said" });
    const name = h("input", { type: "text", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}", placeholder: "its concept", autocomplete: "off" });
    const file = h("input", { type: "file", accept: ".safetensors" });
    const publish = async (isTrial) => {
      if (!file.files[0]) {
        said.replaceChildren(h("p", { class: "warn" }, "Choose a neuron-set file first."));
        return;
      }
      said.replaceChildren(waiting("Uploading"));
      const called = name.value.trim() || file.files[0].name.replace(/\.safetensors$/, "").replace(/[^A-Za-z0-9._-]/g, "-");
      try {
        const card = await ask("v1/controls", { file: file.files[0], query: { model: model().id, name: isTrial ? `${called}${TRIAL}` : called } });
        await loadSets();
        if (isTrial) { this.toPlay(card); return; }
        await this.endTrial(called);
        this.draw();
        say(`${card.name} was published`);
      } catch (error) {
        said.replaceChildren(notice(error));
      }
    };
    const hint = h("p", { class: "hint" }, "A trial is published under the name with ", h("code", {}, TRIAL), " behind it, and opens in Play; publishing takes the trial away.");
    return h("section", { class: "card ask", "aria-label": "Publish" }, h("h2", {}, "Publish a set"), h("div", { class: "row fields" }, field("Neuron-set file", file), field("Name", name)),
      h("div", { class: "row" }, button("Try it out", () => publish(true), { kind: "quiet" }), button("Publish", () => publish(false), { kind: "primary" })), hint, said);
  }

  async endTrial(name) {
    const trial = sets().find((card) => card.name === `${name}${TRIAL}`);
    if (!trial) return;
    await ask(`v1/controls/${encodeURIComponent(trial.name)}`, { method: "DELETE", query: { model: trial.model } });
    await loadSets();
  }

  audit() {
    const box = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Changes", id: newId() });
    this.loadAudit = async () => {
      try {
        const { data } = await ask("v1/controls/audit", { query: { limit: 20 } });
        const rows = data.map((one) => h("tr", {}, h("td", {}, new Date(one.at).toLocaleString()), h("td", {}, one.by), h("td", {}, ACTIONS[one.action] ?? one.action), h("td", {}, `${one.model}: ${one.name}`), h("td", { class: "digest" }, (one.digest ?? "–").slice(0, 15))));
        box.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ["When", "Who", "What", "Set", "Digest"].map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, rows)));
      } catch (error) {
        box.replaceChildren(notice(error));
      }
    };
    this.loadAudit();
    return h("section", { class: "card", "aria-label": "Audit log" }, h("h2", {}, "Audit log"), box);
  }
}

customElements.define("nd-sets", Sets);
