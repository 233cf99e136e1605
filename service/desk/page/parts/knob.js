// The picture of a dial: how far a strength is turned. The slider beside it is what is operated.

import { s } from "../dom.js";

const FROM = -135;
const TO = 135;

const point = (degrees, radius) => {
  const angle = ((degrees - 90) * Math.PI) / 180;
  return `${(32 + radius * Math.cos(angle)).toFixed(2)} ${(32 + radius * Math.sin(angle)).toFixed(2)}`;
};

function arc(from, to) {
  const [a, b] = from < to ? [from, to] : [to, from];
  return `M${point(a, 26)}A26 26 0 ${b - a > 180 ? 1 : 0} 1 ${point(b, 26)}`;
}

/** A dial that shows `value` between `min` and `max`, filled from zero. */
export function knob(value, min, max) {
  const turn = (number) => FROM + ((TO - FROM) * (Math.min(max, Math.max(min, number)) - min)) / (max - min);
  return s("svg", { class: "knob", viewBox: "0 0 64 64", "aria-hidden": "true" },
    s("path", { class: "track", d: arc(FROM, TO) }), s("path", { class: "turned", d: arc(turn(Math.max(min, 0)), turn(value)) }),
    s("path", { class: "needle", d: `M${point(turn(value), 11)}L${point(turn(value), 19)}` }));
}
