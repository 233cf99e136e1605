// Operate: what runs and waits, how fast tokens come, how full the cache is, what went wrong.

import { address, ask, askText } from "../api.js";
import { h, notice, waiting } from "../dom.js";
import { bars, line, pairs } from "../parts/charts.js";
import { most, samples, total } from "../prometheus.js";
import { desk } from "../state.js";
import { number, percent } from "../words.js";

const EVERY_MS = 2000;
const KEPT = 60;
const STATES = { ready: "ready", failed: "could not be loaded", stuck: "stuck", dead: "dead", unreachable: "does not answer" };

/** <nd-operate> */
class Operate extends HTMLElement {
  connectedCallback() {
    this.past = new Map(); // model → [{at, tokens, rate}]
    this.body = h("div", { class: "engines" }, waiting("Asking the server"));
    const links = h("p", { class: "row" }, h("a", { href: "metrics" }, "Metrics for Prometheus"), desk.about?.grafana ? h("a", { href: desk.about.grafana, rel: "noreferrer" }, "Grafana") : null, h("a", { href: "docs" }, "API reference"));
    this.replaceChildren(this.body, links);
    this.look();
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
  }

  async look() {
    try {
      const [health, page] = await Promise.all([healthOf(), askText("metrics")]);
      this.draw(health, samples(page));
    } catch (error) {
      this.body.replaceChildren(notice(error, () => { clearTimeout(this.timer); this.look(); }));
    }
    if (this.isConnected) this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  draw(health, all) {
    const engines = Object.entries(health.engines).map(([id, state]) => this.engine(id, state, all));
    this.body.replaceChildren(h("p", { class: `state ${health.status}`, role: "status" }, `Neurodial ${health.version}: ${health.status === "ok" ? "all models are ready" : health.status}`), h("div", { class: "grid" }, engines), errors(all));
  }

  engine(id, state, all) {
    const labels = { model_name: id };
    const rate = this.rateOf(id, total(all, "neurodial_generation_tokens_total", labels));
    const facts = [["Running", number(state.num_running)], ["Waiting", number(state.num_waiting)], ["Replicas", `${state.num_ready} of ${state.num_replicas}`],
      ["Cache", percent(most(all, "neurodial_kv_cache_usage_perc", labels))], ["Served", number(total(all, "neurodial_request_success_total", labels))], ["With controls", number(total(all, "neurodial_controlled_requests_total", labels))]];
    return h("article", { class: "card engine" }, h("div", { class: "row spread" }, h("h2", {}, id), h("span", { class: `badge ${state.state}` }, STATES[state.state] ?? state.state)),
      pairs(facts),
      h("p", { class: "rate" }, h("strong", {}, number(rate.at(-1) ?? 0)), " tokens per second"), line(rate, { name: "Tokens per second" }));
  }

  rateOf(id, tokens) {
    const at = performance.now();
    const past = this.past.get(id) ?? [];
    const last = past.at(-1);
    past.push({ at, tokens, rate: last ? Math.max(0, ((tokens - last.tokens) * 1000) / (at - last.at)) : 0 });
    this.past.set(id, past.slice(-KEPT));
    return past.slice(-KEPT).map((one) => one.rate);
  }
}

/** The health, which comes with status 503 where it is bad. */
async function healthOf() {
  const answer = await fetch(address("health"), { cache: "no-store" });
  return answer.headers.get("Content-Type")?.startsWith("application/json") ? answer.json() : ask("health");
}

function errors(all) {
  const codes = new Map();
  for (const one of all) {
    if (one.name !== "neurodial_request_failures_total" && one.name !== "neurodial_http_errors_total") continue;
    const code = one.labels.code;
    codes.set(code, Math.max(codes.get(code) ?? 0, one.value));
  }
  const rows = [...codes].filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]).map(([label, value]) => ({ label, value, kind: "hot" }));
  return h("section", { class: "card", "aria-label": "Errors" }, h("h2", {}, "Errors since the start"), rows.length ? bars(rows) : h("p", { class: "hint" }, "None."));
}

customElements.define("nd-operate", Operate);
