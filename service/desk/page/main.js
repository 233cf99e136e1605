// The page: its panels, its key, its colours.

import { ask, hasKey, setKey } from "./api.js";
import { button, h, notice, waiting } from "./dom.js";
import { desk, keep, model, PANELS, restore, write } from "./state.js";
import { loadSets } from "./panels/sets.js";
import "./panels/look.js";
import "./panels/operate.js";
import "./panels/play.js";

const TITLES = { play: "Play", look: "Look", sets: "Sets", operate: "Operate" };
const THEME = "neurodial-theme";
const main = document.querySelector("main");

function drawNav() {
  const links = PANELS.map((panel) => h("a", { href: write({ ...desk, panel }), "aria-current": desk.panel === panel ? "page" : null }, TITLES[panel]));
  document.querySelector("nav").replaceChildren(...links);
}

function drawTools() {
  document.querySelector(".tools").replaceChildren(
    h("a", { href: "docs", class: "quiet-link" }, "API"),
    button("", askForKey, { kind: "bare", drawn: "key", name: hasKey() ? "Change the key" : "Enter a key" }),
    button("", turnTheme, { kind: "bare", drawn: "sun", name: "Light or dark" }));
}

function turnTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(THEME, theme);
}

let asking = null;

/** Asks for a key; it stays in this page's memory alone. */
function askForKey() {
  if (asking) return;
  const input = h("input", { type: "password", autocomplete: "off", id: "key", required: false });
  const submit = (event) => {
    event.preventDefault();
    setKey(input.value);
    asking.close();
    start();
  };
  asking = h("dialog", { "aria-labelledby": "key-title", onclose: () => { asking.remove(); asking = null; } },
    h("form", { onsubmit: submit }, h("h2", { id: "key-title" }, "Key"), h("p", {}, "It stays in this page’s memory, and is gone when the page is closed."), h("label", { for: "key" }, "Your key"), input,
      h("div", { class: "row end" }, button("Cancel", () => asking.close(), { kind: "quiet" }), h("button", { class: "primary" }, "Use it"))));
  document.body.append(asking);
  asking.showModal();
}

function show() {
  drawNav();
  document.title = `${TITLES[desk.panel]} · Neurodial`;
  main.replaceChildren(h("h1", { class: "unseen" }, TITLES[desk.panel]), document.createElement(`nd-${desk.panel}`));
  const { version } = desk.about ?? {};
  document.querySelector("footer").replaceChildren(h("small", {}, `Neurodial ${version ?? ""} · what you type goes to this server alone`));
}

/** Asks the server what there is, and shows the panel. */
async function start() {
  drawTools();
  main.replaceChildren(waiting("Asking the server what it serves"));
  try {
    const [about, models] = await Promise.all([ask("v1/desk"), ask("v1/models"), loadSets()]);
    desk.about = about;
    desk.models = models.data.filter((card) => card.parent === null);
    if (!desk.models.length) throw Object.assign(new Error("No model is ready yet; one may still be loading."), { title: "Nothing to serve" });
    desk.model = model().id;
    show();
  } catch (error) {
    main.replaceChildren(h("h1", { class: "unseen" }, "Neurodial"), notice(error, start));
  }
}

addEventListener("hashchange", () => {
  restore();
  if (desk.about) show();
});
document.addEventListener("key-needed", askForKey);
document.addEventListener("controls-changed", drawNav);
document.addEventListener("input", drawNav);
document.addEventListener("change", drawNav);
if (localStorage.getItem(THEME)) setTheme(localStorage.getItem(THEME));
restore();
drawNav();
start().then(() => { if (desk.about) keep(); });
