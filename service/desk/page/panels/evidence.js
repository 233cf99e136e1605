// A set's evidence as pictures. Every part may be missing.

import { h } from "../dom.js";
import { bars, line, shares } from "../parts/charts.js";
import { number } from "../words.js";

/** What shows that these are the right neurons. */
export function evidence(found) {
  const parts = [...probes(found.probe), ...readouts(found.readout), causal(found.causal), cost(found.causal), stability(found.stability), curve(found.curve)].filter(Boolean);
  return parts.length ? h("div", { class: "evidence" }, parts) : h("p", { class: "hint" }, "This set carries no evidence.");
}

function probes(probe) {
  return Object.entries(probe ?? {}).map(([stack, one]) => shares([
    { label: "The set", value: one.accuracy },
    { label: "Random neurons", value: one.random_neurons?.mean, kind: "plain" },
    { label: "Control task", value: one.control_task, kind: "plain" },
    { label: "Majority", value: one.majority, kind: "plain" },
  ].filter((row) => typeof row.value === "number"), { title: `Held-out accuracy of a probe, ${stack}` }));
}

function readouts(readout) {
  return Object.entries(readout ?? {}).map(([site, one]) => shares(Object.entries(one)
    .filter(([, value]) => typeof value?.recall === "number")
    .map(([label, value]) => ({ label: label === "none" ? "none of them" : label, value: value.recall, kind: label === "none" ? "plain" : "" })), { title: `Found by the gate at ${site}, of all there is` }));
}

function causal(found) {
  const moved = Object.entries(found?.control ?? {}).map(([label, one]) => ({ label: `to ${label}`, value: one.set }));
  const rows = Object.entries(found?.move ?? {}).flatMap(([label, one]) => [
    { label: `shift to ${label}`, value: one.set }, { label: "random neurons", value: one.random?.mean ?? 0, kind: "plain" },
  ]);
  const all = [...moved, ...rows];
  return all.length ? bars(all, { title: `Causal effect, ${found.unit ?? ""}: the recommended control, then a plain shift beside random neurons` }) : null;
}

function cost(found) {
  const rows = Object.entries(found?.off_target?.control ?? {}).map(([label, one]) => ({ label: `to ${label}`, value: Math.max(0, one.set - 1), text: `× ${number(one.set)}` }));
  return rows.length ? bars(rows, { most: 1, title: "Cost off target: perplexity of other text, times" }) : null;
}

function stability(found) {
  const rows = Object.entries(found ?? {}).flatMap(([stack, one]) => [
    { label: `${stack}: chosen again`, value: one.top_shared }, { label: "by chance", value: one.chance, kind: "plain" },
  ]).filter((row) => typeof row.value === "number");
  return rows.length ? shares(rows, { title: "The same neurons from other samples" }) : null;
}

function curve(found) {
  if (!Array.isArray(found) || found.length < 2) return null;
  return h("figure", {}, h("figcaption", {}, "Accuracy by number of neurons"), line(found.map((point) => point.accuracy ?? point[1]), { name: "Accuracy" }));
}
