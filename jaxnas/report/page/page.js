// The page: which epoch is shown, what plays, which theme, and data that come while a search runs.

const page = {
  data: null,
  at: 0,
  version: 0,
  timer: null,
  revision: null,
  drawn: {}, // what parts of the data the page was built of
  pointer: matchMedia("(pointer: fine)").matches,
};
const ICONS = { play: "M3 1.5 14 8 3 14.5Z", pause: "M3 2h3.6v12H3ZM9.4 2H13v12H9.4Z" };

function receive(data) {
  const following = page.data === null || page.at >= page.data.epochs.length - 1;
  page.data = data;
  page.version += 1;
  const last = Math.max(data.epochs.length - 1, 0);
  page.at = following ? last : Math.min(page.at, last);
  byId("epoch").max = last;
  show("controls", data.epochs.length > 0);
  buildWords();
  buildTables();
  // What is there only moves, unless there is something else to draw: so folds and focus stay as they are.
  const { graph, cells, choices, panels } = data;
  const begun = data.epochs.length > 0;
  if (differs("choices", [graph, cells, begun, choices.map((choice) => [choice.key, choice.kind, choice.labels])])) {
    buildArchitecture();
    buildChoices();
  }
  if (differs("panels", panels.map((panel) => [panel.title, panel.series.map((series) => series.name)]))) buildPanels();
  forgetCharts();
  update();
}

function differs(name, value) {
  const text = JSON.stringify(value);
  const other = page.drawn[name] !== text;
  page.drawn[name] = text;
  return other;
}

function update() {
  const { data, at } = page;
  if (!data.epochs.length) return;
  byId("epoch").value = at;
  const words = `epoch ${data.epochs[at]} of ${Math.max(data.planned ?? 0, data.epochs[data.epochs.length - 1])}`;
  byId("shown").textContent = words;
  byId("epoch").setAttribute("aria-valuetext", words);
  updateArchitecture();
  updateChoices();
  updateCharts();
}

function choose(at) {
  const to = Math.min(Math.max(at, 0), page.data.epochs.length - 1);
  if (to === page.at) return;
  page.at = to;
  update();
}

function play(on) {
  clearInterval(page.timer);
  page.timer = null;
  const last = page.data.epochs.length - 1;
  if (on && last > 0) {
    if (page.at >= last) choose(0);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    page.timer = setInterval(
      () => {
        if (page.at >= page.data.epochs.length - 1) play(false);
        else choose(page.at + 1);
      },
      Math.max(Math.min(9000 / last, 500), calm ? 500 : 70),
    );
  }
  byId("play").setAttribute("aria-label", page.timer ? "Pause" : "Play");
  byId("play")
    .querySelector("path")
    .setAttribute("d", page.timer ? ICONS.pause : ICONS.play);
}

function key(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || !page.data.epochs.length) return;
  const free = event.target === document.body || event.target === document.documentElement;
  if (event.key === " " && (free || event.target.id === "epoch")) play(!page.timer);
  else if (free && event.key in { ArrowLeft: 1, ArrowRight: 1 }) choose(page.at + (event.key === "ArrowLeft" ? -1 : 1));
  else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- theme

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", name === "dark" ? "Light colours" : "Dark colours");
  page.version += 1; // so that plots are drawn anew
  if (page.data) updateCharts();
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () =>
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  );
}

// ---------------------------------------------------------------- while a search runs

async function poll() {
  let wait = 1000;
  try {
    if (!document.hidden) wait = await ask();
  } catch {
    notice("The server does not answer. Is `jaxnas watch` still running? Trying again.", "error");
    page.revision = null;
    wait = 3000;
  }
  setTimeout(poll, wait);
}

async function ask() {
  const headers = page.revision ? { "If-None-Match": page.revision } : {};
  const answer = await fetch("data.json", { headers, cache: "no-store" });
  if (answer.status !== 304) {
    const data = await answer.json();
    page.revision = answer.headers.get("ETag");
    if (data.error)
      notice(data.error, "error"); // what was drawn stays
    else receive(data);
  }
  return ["finished", "failed"].includes(page.data.status.state) ? 4000 : 1000;
}

// ---------------------------------------------------------------- start

function start() {
  performance.mark("begun");
  const data = JSON.parse(byId("data").textContent);
  startTheme();
  byId("epoch").addEventListener("input", () => {
    play(false);
    choose(Number(byId("epoch").value));
  });
  byId("play").addEventListener("click", () => play(!page.timer));
  byId("unfold").addEventListener("click", () => foldAll(true));
  byId("fold").addEventListener("click", () => foldAll(false));
  byId("copy").addEventListener("click", copy);
  document.addEventListener("keydown", key);
  receive(data);
  play(false);
  performance.mark("drawn");
  addEventListener("DOMContentLoaded", () => {
    // plotly stands after this script, so that the rest is seen first
    startCharts();
    if (data.live) poll();
  });
}

start();
