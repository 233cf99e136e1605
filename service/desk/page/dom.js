// Elements, made of text and attributes alone: nothing that a server or a visitor wrote is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else if (name === "vars") for (const [key, number] of Object.entries(value)) element.style.setProperty(key, number);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An HTML element: `h("p", {class: "note", onclick: f}, "text", child)`. `vars` sets custom properties. */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** An SVG element. */
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

let count = 0;

/** A new id, to tie a label to what it names. */
export const newId = () => `d${++count}`;

/** A labelled field. `control` is an input, a select or a textarea. */
export function field(label, control, { hint, wide } = {}) {
  control.id ||= newId();
  const described = hint ? h("small", { id: newId() }, hint) : null;
  if (described) control.setAttribute("aria-describedby", described.id);
  return h("div", { class: wide ? "field wide" : "field" }, h("label", { for: control.id }, label), control, described);
}

/** A choice; `options` are values or [value, text]. */
export function select(options, value, onchange, props = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const made = pairs.map(([id, text]) => h("option", { value: id, selected: id === value }, text));
  return h("select", { ...props, onchange: (event) => onchange(event.target.value) }, made);
}

/** A line drawing, for buttons. */
export function icon(name) {
  const paths = {
    up: "M12 19V5M6 11l6-6 6 6", down: "M12 5v14M6 13l6 6 6-6", close: "M6 6l12 12M18 6L6 18", plus: "M12 5v14M5 12h14",
    grip: "M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01", key: "M15 9a5 5 0 1 0-4.6 5L13 11.500M14 12l6 6M18 16l-2 2",
    sun: "M12 3v2M12 19v2M3 12h2M19 12h2M5.600 5.600l1.400 1.400M17 17l1.400 1.400M5.600 18.400L7 17M17 7l1.400-1.400M12 8a4 4 0 1 0 .01 0",
    copy: "M9 9h11v11H9zM5 15H4V4h11v1", link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
    on: "M12 4v8M7 7a7 7 0 1 0 10 0", play: "M8 5l11 7-11 7z",
  };
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: paths[name] }));
}

/** A button. `name` is read out where the button shows an icon alone. */
export function button(text, onclick, { kind = "", drawn, name, ...props } = {}) {
  const shown = [drawn ? icon(drawn) : null, text ? h("span", {}, text) : null];
  return h("button", { type: "button", class: kind, "aria-label": name, title: text ? null : name, onclick, ...props }, shown);
}

const FOCUSABLE = "a, button, input, select, textarea, summary";

/** Draws anew, and leaves the focus at the same place of what was drawn. */
export function keepingFocus(host, draw) {
  const place = [...host.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  draw();
  if (place >= 0) host.querySelectorAll(FOCUSABLE)[place]?.focus();
}

/** Says something to people who hear the page. */
export function say(text) {
  let region = document.getElementById("said");
  if (!region) document.body.append((region = h("div", { id: "said", class: "unseen", role: "status" })));
  region.textContent = text;
}

/** What went wrong, with a way on. */
export function notice(error, again) {
  const retry = again ? button("Try again", again, { kind: "quiet" }) : null;
  return h("div", { class: "notice", role: "alert" }, h("div", {}, h("strong", {}, error.title ?? "That did not work"),
    h("p", {}, error.message)), retry);
}

/** That something is on its way. */
export const waiting = (text) => h("p", { class: "waiting", role: "status" }, h("span", { class: "pulse" }), text);
