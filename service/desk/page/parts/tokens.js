// Tokens in a row, painted by numbers or by whether a gate fired.

import { h } from "../dom.js";
import { number, piece } from "../words.js";

/** Tokens coloured by values: warm above zero, cold below; each is a button where `choose(index)` is given. */
export function heat(tokens, values, { scale, choose, chosen } = {}) {
  const most = scale ?? Math.max(1e-9, ...values.map(Math.abs));
  return h("div", { class: "tokens" }, tokens.map((token, index) => {
    const share = Math.max(-1, Math.min(1, values[index] / most));
    const props = { class: `token ${share < 0 ? "cold" : "hot"}`, vars: { "--share": `${Math.round(Math.abs(share) * 100)}%` }, title: `${piece(token)}: ${number(values[index])}` };
    if (!choose) return h("span", props, piece(token));
    return h("button", { ...props, type: "button", "aria-pressed": String(chosen === index), onclick: () => choose(index) }, piece(token), h("span", { class: "unseen" }, ` ${number(values[index])}`));
  }));
}

/** Tokens of which some are marked, each with what is said of it. */
export function marked(tokens, marks) {
  return h("div", { class: "tokens" }, tokens.map((token, index) => {
    const { fired, text } = marks[index];
    const shown = text ? h("small", {}, text) : null;
    return h("span", { class: fired ? "token fired" : "token", title: text || null }, piece(token), shown);
  }));
}
