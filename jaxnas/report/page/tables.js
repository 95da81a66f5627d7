// What does not move with the epoch: words, tables, the architecture to copy.

const FIRST_ROWS = 10;

function buildWords() {
  const { data } = page;
  document.title = `${data.name} · jaxnas`;
  byId("name").textContent = data.name;
  byId("about").textContent = data.about;
  byId("status").textContent = data.status.text;
  byId("status").dataset.state = data.status.state;
  const last =
    data.status.last === null ? [] : [["last epoch ended", new Date(data.status.last * 1000).toLocaleString()]];
  byId("facts").replaceChildren(...terms([...data.facts, ...last]));
  notice(data.status.detail, data.status.state === "failed" ? "error" : "word");
  show("empty", data.epochs.length === 0);
  byId("choices-note").textContent = data.choices.some((choice) => choice.alphas)
    ? "Bars: probability of each candidate at the epoch shown; ✓ would be chosen. Lines: alphas (logits)."
    : "Bars: probability of each candidate at the epoch shown; ✓ would be chosen. Lines: probabilities.";
}

function terms(pairs) {
  return pairs.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)));
}

function notice(text, kind) {
  byId("notice").textContent = text;
  byId("notice").dataset.kind = kind;
  show("notice", Boolean(text));
}

function buildTables() {
  const { candidates, trainings, final, configuration } = page.data;
  show("candidates", candidates !== null);
  if (candidates) buildCandidates(candidates, FIRST_ROWS);
  show("trainings", trainings.length > 0);
  const scores = [...new Set(trainings.flatMap((row) => Object.keys(row.scores)))].sort();
  table(
    "trainings",
    ["training", "status", "start", "epochs", ...scores.map((name) => `#${name.replaceAll("_", " ")}`), "duration"],
    trainings.map((row) => [
      shortened(row.name, 60),
      row.status,
      row.start,
      row.epochs,
      ...scores.map((name) => number(row.scores[name])),
      row.duration,
    ]),
  );
  show("final", final !== null);
  if (final && byId("json").textContent !== final.text) byId("json").textContent = final.text;
  byId("final-title").textContent = final && !final.final ? "Architecture so far" : "Final architecture";
  show("configuration", configuration.length > 0);
  document.querySelector("#configuration dl").replaceChildren(...terms(configuration));
}

function buildCandidates(candidates, most) {
  const rows = candidates.rows
    .slice(0, most)
    .map((row, i) => [
      String(i + 1),
      ...row.numbers.map((value) => number(value)),
      row.arch.length <= 160
        ? row.arch
        : element("details", {}, element("summary", {}, `${row.arch.slice(0, 120)}…`), row.arch),
    ]);
  table("candidates", ["#rank", ...candidates.columns.map((name) => `#${name}`), "architecture"], rows);
  const rest = candidates.rows.length > most;
  show("all", rest);
  byId("all").textContent = `Show all ${candidates.rows.length}`;
  byId("all").onclick = () => buildCandidates(candidates, Infinity);
}

// A name that begins with # is of a column of numbers.
function table(id, names, rows) {
  const kind = names.map((name) => (name.startsWith("#") ? "number" : name === "architecture" ? "long" : null));
  const head = element(
    "tr",
    {},
    ...names.map((name, i) => element("th", { scope: "col", class: kind[i] }, shortened(name.replace(/^#/, ""), 40))),
  );
  const body = rows.map((row) => element("tr", {}, ...row.map((value, i) => element("td", { class: kind[i] }, value))));
  document.querySelector(`#${id} table`).replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
}

async function copy() {
  const text = byId("json");
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    // not allowed here: select it, and the keyboard copies
    getSelection().selectAllChildren(text);
    text.focus();
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => {
    button.textContent = "Copy";
  }, 2500);
}
