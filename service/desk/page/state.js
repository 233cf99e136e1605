// What the page is about: kept in its address, so that a link restores it. Keys are never part of it.

const DEFAULTS = { panel: "play", model: "", task: "", text: "", controls: [], settings: {}, look: {} };
export const PANELS = ["play", "look", "sets", "operate"];

/** The state, and what the server told about itself. */
export const desk = { ...structuredClone(DEFAULTS), models: [], sets: [], about: null };

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function parsed(text, fallback, accepts) {
  try {
    const value = JSON.parse(text);
    return accepts(value) ? value : fallback;
  } catch {
    return fallback; // a link that was cut off: what can be read of it is restored
  }
}

/** The state that an address's fragment says. */
export function read(hash) {
  const [panel, query = ""] = hash.replace(/^#/, "").split("?");
  const found = new URLSearchParams(query);
  return {
    panel: PANELS.includes(panel) ? panel : "play",
    model: found.get("model") ?? "",
    task: found.get("task") ?? "",
    text: found.get("text") ?? "",
    controls: parsed(found.get("controls"), [], (value) => Array.isArray(value) && value.every(isObject)),
    settings: parsed(found.get("settings"), {}, isObject),
    look: parsed(found.get("look"), {}, isObject),
  };
}

/** The fragment of a state. */
export function write(state) {
  const said = new URLSearchParams();
  for (const name of ["model", "task", "text"]) if (state[name]) said.set(name, state[name]);
  if (state.controls.length) said.set("controls", JSON.stringify(state.controls));
  if (Object.keys(state.settings).length) said.set("settings", JSON.stringify(state.settings));
  if (Object.keys(state.look).length) said.set("look", JSON.stringify(state.look));
  const query = said.toString();
  return `#${state.panel}${query ? `?${query}` : ""}`;
}

/** Takes the state from the address. */
export const restore = () => Object.assign(desk, read(location.hash));

/** Puts the state into the address, without a new entry in the browser's history. */
export const keep = () => history.replaceState(null, "", write(desk));

/** The chosen model's card. */
export const model = () => desk.models.find((card) => card.id === desk.model) ?? desk.models[0];

/** The chosen model's sets. */
export const sets = () => desk.sets.filter((card) => card.model === model()?.id);

/** The controls that are switched on, as a request takes them. */
export const active = () => desk.controls.filter((control) => !control.off).map(({ off, ...control }) => control);

/** What a model can do with a text. */
export function tasksOf(card) {
  if (!card) return [];
  if (card.classifies) return ["classify"];
  if (card.family === "encoder-decoder") return ["translate"];
  if (card.family === "decoder-only") return card.has_chat_template ? ["chat", "complete"] : ["complete"];
  return [];
}

/** The chosen task, if the model can do it, else the model's first. */
export const task = () => (tasksOf(model()).includes(desk.task) ? desk.task : tasksOf(model())[0]);
