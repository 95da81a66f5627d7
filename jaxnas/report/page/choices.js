// A card for every choice, in groups that fold: bars of its candidates now, and lines over the epochs.

const OPEN_AT_FIRST = 24;

function buildChoices() {
  const names = [...new Set(page.data.choices.map((choice) => choice.group))];
  const few = page.data.choices.length <= OPEN_AT_FIRST;
  const begun = page.data.epochs.length > 0;
  byId("groups").replaceChildren(...(begun ? names.map((name, i) => buildGroup(name, few || i === 0)) : []));
  show("choices", begun);
}

function buildGroup(name, open) {
  const members = page.data.choices.map((choice, i) => ({ choice, i })).filter(({ choice }) => choice.group === name);
  const note = element("span", { class: "note" });
  const cards = element("div", { class: "cards" });
  const group = element("details", {}, element("summary", {}, name, note), cards);
  const updates = [];
  group.update = () => {
    const entropies = members.map(({ i }) => page.data.choices[i].entropy[page.at]).filter((value) => value !== null);
    const mean = entropies.reduce((a, b) => a + b, 0) / entropies.length;
    const count = `${members.length} ${members.length === 1 ? "choice" : "choices"}`;
    note.textContent = entropies.length ? `${count}, entropy ${mean.toFixed(2)}` : count;
    if (group.open) updates.forEach((update) => update());
  };
  group.build = () => {
    // only once it is unfolded
    if (!updates.length) for (const { i } of members) cards.append(buildCard(i, updates));
  };
  group.addEventListener("toggle", () => {
    if (group.open) group.build();
    group.update();
  });
  if (open) group.build();
  group.open = open;
  return group;
}

function buildCard(index, updates) {
  const choice = page.data.choices[index];
  const note = element("p", { class: "note" });
  const rows = choice.labels.map((label, i) => {
    const filled = element("div", { class: "fill" });
    const value = element("span", { class: "value" });
    const row = element(
      "li",
      { style: { "--chip": colour(i) } },
      element(
        "span",
        { class: "label", title: label },
        element("span", { class: i >= 8 ? "chip dashed" : "chip" }),
        brief(choice, i),
      ),
      element("div", { class: "track" }, filled),
      value,
    );
    return { row, filled, value };
  });
  const plot = element("div", {
    class: "plot",
    role: "img",
    "aria-label": `${choice.alphas ? "Alphas" : "Probabilities"} of ${choice.key} over the epochs`,
  });
  const taken = choice.number === null ? "any of" : `${choice.number} of`;
  const kind = `${choice.kind === "layer" ? "layer" : "input"}, ${taken} ${choice.labels.length}`;
  updates.push(() => {
    const now = page.data.choices[index];
    const weights = now.probabilities[page.at];
    const chosen = now.chosen[page.at];
    const entropy = now.entropy[page.at];
    note.textContent = `${kind}${entropy === null ? "" : `, entropy ${entropy.toFixed(2)}`}`;
    rows.forEach(({ row, filled, value }, i) => {
      filled.style.transform = `scaleX(${share(weights[i])})`;
      value.textContent = weights[i] === null ? "–" : weights[i].toFixed(3);
      row.classList.toggle("chosen", chosen.includes(i));
    });
  });
  addChart(plot, {
    fromZero: !choice.alphas,
    series: () => {
      const now = page.data.choices[index];
      const rows = now.alphas ?? now.probabilities;
      return now.labels.map((label, i) => ({ name: label, colour: i, values: rows.map((row) => row[i]) }));
    },
  });
  return element(
    "article",
    { class: "choice", id: `choice-${index}`, tabindex: "-1", "aria-label": choice.key },
    element("h3", {}, choice.key),
    note,
    element("ul", { class: "bars" }, ...rows.map(({ row }) => row)),
    plot,
  );
}

function updateChoices() {
  for (const group of byId("groups").children) group.update();
}

function foldAll(open) {
  for (const group of byId("groups").children) group.open = open;
}

// From the graph to a choice's card.
function goTo(index) {
  for (const group of byId("groups").children) {
    if (page.data.choices[index].group !== group.querySelector("summary").firstChild.data) continue;
    group.build();
    group.open = true;
    group.update();
  }
  const card = byId(`choice-${index}`);
  if (!card) return; // before the first epoch
  document.querySelectorAll(".choice.found").forEach((other) => other.classList.remove("found"));
  card.classList.add("found");
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "center" });
}
