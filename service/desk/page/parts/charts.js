// Small pictures of numbers. Each has its numbers as text too.

import { h, s } from "../dom.js";
import { number, percent } from "../words.js";

/** Bars under one another: [{label, value, text?, kind?}], from zero or below to `most`. */
export function bars(rows, { most, unit = number, title } = {}) {
  const top = most ?? Math.max(1e-9, ...rows.map((row) => Math.abs(row.value)));
  const made = rows.map(({ label, value, text, kind = "" }) => [
    h("dt", {}, label),
    h("dd", {}, h("span", { class: "bar-box" }, h("span", { class: `bar ${kind}`, vars: { "--share": `${Math.round(Math.min(1, Math.abs(value) / top) * 1000) / 10}%` } })), h("span", { class: "figure" }, text ?? unit(value))),
  ]);
  return h("figure", { class: "bars" }, title ? h("figcaption", {}, title) : null, h("dl", {}, made));
}

/** Shares from 0 to 1 as bars. */
export const shares = (rows, options) => bars(rows, { most: 1, unit: percent, ...options });

/** A line through numbers in time or by count; `name` says what it shows. */
export function line(values, { name, width = 240, height = 48 } = {}) {
  const top = Math.max(1e-9, ...values);
  const at = (value, index) => `${((index / Math.max(1, values.length - 1)) * width).toFixed(1)},${(height - 3 - (value / top) * (height - 6)).toFixed(1)}`;
  const points = values.map(at).join(" ");
  return s("svg", { class: "line", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: now ${number(values.at(-1) ?? 0)}, at most ${number(Math.max(0, ...values))}`, preserveAspectRatio: "none" },
    values.length > 1 ? s("polyline", { class: "area", points: `0,${height} ${points} ${width},${height}` }) : null, s("polyline", { class: "stroke", points }));
}

/** Names and what they come to, side by side: [name, value]. */
export const pairs = (rows) => h("dl", { class: "facts" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
