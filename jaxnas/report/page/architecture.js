// The graph of the choices, and the cells.

const drawings = []; // functions that show the epoch

function buildArchitecture() {
  drawings.length = 0;
  const { cells, graph } = page.data;
  byId("cells").replaceChildren(...cells.map(buildCell));
  const folded = cells.length > 0;
  const drawing = graph ? buildGraph(graph) : null;
  const nodes = [];
  if (drawing && folded) nodes.push(element("details", {}, element("summary", {}, "All choices as a graph"), drawing));
  else if (drawing) nodes.push(drawing);
  else if (page.data.choices.length) nodes.push(...buildList());
  byId("graph").replaceChildren(...nodes);
  show("architecture", nodes.length > 0);
  const width = Math.max(...cells.map((cell) => cell.width), graph && !folded ? graph.width : 0, 0);
  const wide = width > 900;
  byId("lead").classList.toggle("wide", wide);
  if (page.data.choices.length <= 8 && !wide)
    byId("left").append(byId("choices")); // else they follow below
  else byId("lead").after(byId("choices"));
}

function updateArchitecture() {
  for (const update of drawings) update();
}

function buildList() {
  const items = page.data.choices.map((choice, index) => {
    const decision = element("b");
    drawings.push(() => {
      const now = page.data.choices[index];
      decision.textContent = now.chosen[page.at]?.map((i) => now.labels[i]).join(", ") || "none";
    });
    return element("li", {}, `${choice.key}: `, decision);
  });
  return [
    element("p", { class: "note" }, "This run has no record of how its choices are connected."),
    element("ul", { class: "plain" }, ...items),
  ];
}

// A drawing that can be enlarged; Tab reaches one of its nodes, and arrows move on from there.
function frame(heading, label, width, height, picture, most) {
  const box = element("div", { class: "drawing", tabindex: "0", role: "region", "aria-label": label }, picture);
  let scale = 1;
  const resize = (to) => {
    scale = Math.min(Math.max(to, 0.2), 3);
    picture.setAttribute("width", width * scale);
    picture.setAttribute("height", height * scale);
  };
  const fit = () => {
    const room = box.clientWidth;
    if (!room) return; // folded
    resize(Math.max(Math.min(room / width, most), 0.75)); // smaller, it could not be read
    box.scrollLeft = (box.scrollWidth - room) / 2;
  };
  new ResizeObserver(() => {
    if (box.clientWidth !== box.known) {
      box.known = box.clientWidth;
      fit();
    }
  }).observe(box);
  const button = (text, name, act) => {
    const made = element("button", { type: "button", "aria-label": name }, text);
    made.addEventListener("click", act);
    return made;
  };
  const buttons = element(
    "div",
    { class: "zoom" },
    heading,
    button("−", `Smaller: ${label}`, () => resize(scale / 1.25)),
    button("+", `Larger: ${label}`, () => resize(scale * 1.25)),
    button("Fit", `Fit: ${label}`, fit),
  );
  return [buttons, box];
}

function curve(points) {
  let path = `M${points[0][0]} ${points[0][1]}`;
  for (let i = 1; i < points.length; i++) {
    const [[x, y], [toX, toY]] = [points[i - 1], points[i]];
    const middle = (y + toY) / 2;
    path += `C${x} ${middle} ${toX} ${middle} ${toX} ${toY}`;
  }
  return path;
}

function buildGraph(graph) {
  const picture = svg("svg", {
    viewBox: `${graph.left} 0 ${graph.width} ${graph.height}`,
    role: "group",
    "aria-label": "Graph of the choices",
  });
  for (const edge of graph.edges) {
    const path = svg("path", { d: curve(edge.path), class: "edge", "stroke-width": 1.5, "stroke-opacity": 0.6 });
    picture.append(path);
    if (edge.target === null || !edge.candidates) continue;
    drawings.push(() => {
      const now = page.data.choices[edge.target];
      const weights = now.probabilities[page.at];
      weigh(
        path,
        Math.max(...edge.candidates.map((i) => weights?.[i] ?? 0)),
        edge.candidates.some((i) => now.chosen[page.at]?.includes(i)),
      );
    });
  }
  const links = graph.nodes.map((node) => buildNode(node));
  picture.append(...links);
  rove(links.filter((link) => link.localName === "a"));
  return element("div", {}, ...frame(null, "Graph of the choices", graph.width, graph.height, picture, 1));
}

function weigh(path, weight, chosen) {
  const w = share(weight);
  path.setAttribute("stroke-width", (chosen ? 1.5 : 1) + 4 * w);
  path.setAttribute("stroke-opacity", chosen ? 0.5 + 0.5 * w : 0.12 + 0.8 * w);
  path.classList.toggle("chosen", chosen);
}

function buildNode(node) {
  const left = node.x - node.width / 2;
  const top = node.y - node.height / 2;
  const box = svg("rect", {
    class: `box ${node.kind === "inputs" ? "input" : ""}`,
    x: left,
    y: top,
    width: node.width,
    height: node.height,
    rx: 7,
  });
  if (node.choice === null) {
    return svg("g", {}, box, svg("text", { class: "node-name", x: node.x, y: node.y }, node.key));
  }
  const choice = page.data.choices[node.choice];
  const about = [choice.key, node.inside ? `inside ${node.inside}` : "", node.uses > 1 ? `used ${node.uses} times` : ""]
    .filter(Boolean)
    .join(", ");
  const uses = node.uses > 1 ? ` ×${node.uses}` : "";
  const inside = node.inside ? ` in ${shortened(node.inside, 8)}` : "";
  const name = shortened(choice.key, Math.max(21 - uses.length - inside.length, 8));
  const head = svg(
    "text",
    { class: "head", x: left + 9, y: top + 17 },
    name + uses,
    svg("tspan", { class: "small" }, inside),
  );
  const marks = choice.labels.length <= 6 ? rowsOf(choice, node, left, top) : columnsOf(choice, node, left, top);
  const link = svg(
    "a",
    { href: `#choice-${node.choice}`, "aria-label": about },
    svg("title", {}, about),
    box,
    head,
    ...marks,
  );
  link.addEventListener("click", (event) => {
    event.preventDefault();
    goTo(node.choice);
  });
  return link;
}

function rowsOf(choice, node, left, top) {
  const room = node.width - 18;
  return choice.labels.map((label, i) => {
    const y = top + 25 + 17 * i;
    const weight = svg("rect", { class: "weight", x: left + 9, y, width: 0, height: 14, rx: 3 });
    const value = svg("text", { class: "share", x: left + node.width - 12, y: y + 11, "text-anchor": "end" });
    const row = svg(
      "g",
      {},
      svg("rect", { class: "track", x: left + 9, y, width: room, height: 14, rx: 3 }),
      weight,
      svg("text", { x: left + 14, class: "share", y: y + 11 }, shortened(brief(choice, i), 15)),
      value,
    );
    drawings.push(() => {
      const now = page.data.choices[node.choice];
      const p = now.probabilities[page.at]?.[i] ?? null;
      weight.setAttribute("width", room * share(p));
      value.textContent = p === null ? "" : p.toFixed(2);
      row.classList.toggle("chosen", Boolean(now.chosen[page.at]?.includes(i)));
    });
    return row;
  });
}

function columnsOf(choice, node, left, top) {
  const room = (node.width - 18) / choice.labels.length;
  const strongest = svg("text", { class: "small", x: left + 9, y: top + 80 });
  const columns = choice.labels.map((label, i) => {
    const place = { x: left + 9 + room * i, width: Math.max(room - 1.5, 1) };
    const weight = svg("rect", { class: "weight", ...place, y: top + 66, height: 0 });
    const column = svg(
      "g",
      {},
      svg("title", {}, label),
      svg("rect", { class: "track", ...place, y: top + 28, height: 38 }),
      weight,
    );
    drawings.push(() => {
      const now = page.data.choices[node.choice];
      const p = share(now.probabilities[page.at]?.[i]);
      weight.setAttribute("height", 38 * p);
      weight.setAttribute("y", top + 66 - 38 * p);
      column.classList.toggle("chosen", Boolean(now.chosen[page.at]?.includes(i)));
    });
    return column;
  });
  drawings.push(() => {
    const now = page.data.choices[node.choice];
    const weights = now.probabilities[page.at];
    if (!weights) return;
    const best = largest(weights);
    strongest.textContent = `${shortened(brief(now, best), 15)} ${number(weights[best], 2)}`;
  });
  return [...columns, strongest];
}

function rove(links) {
  links.forEach((link, i) => {
    link.setAttribute("tabindex", i === 0 ? "0" : "-1");
    link.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
      const next = links[i + step];
      if (!next) return;
      event.preventDefault();
      link.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

function buildCell(cell) {
  const picture = svg("svg", {
    viewBox: `0 0 ${cell.width} ${cell.height}`,
    role: "img",
    "aria-label": `The cell ${cell.name}`,
  });
  const labels = [];
  for (const edge of cell.edges) {
    const [a, b, c, d] = edge.path;
    const path = svg("path", { d: `M${a}C${b} ${c} ${d}`, class: "edge", "stroke-width": 1.5, "stroke-opacity": 0.6 });
    const label = svg("text", { class: "op", x: edge.label[0], y: edge.label[1] });
    const title = svg("title");
    path.append(title);
    picture.append(path);
    if (edge.loose) drawings.push(() => showLoose(edge.loose, path));
    if (edge.choice === null && edge.switch === null) continue;
    labels.push(label);
    drawings.push(() => showEdge(edge, path, label, title));
  }
  for (const node of cell.nodes) {
    picture.append(
      svg("circle", { class: "node", cx: node.x, cy: node.y, r: node.radius }),
      svg("text", { class: "node-name", x: node.x, y: node.y }, svg("title", {}, node.name), ...subscripted(node.name)),
    );
  }
  picture.append(...labels);
  const title = /^cell$/i.test(cell.name) ? "Cell" : `Cell ${cell.name}`;
  return element(
    "div",
    { class: "cell" },
    ...frame(element("h3", {}, title), title, cell.width, cell.height, picture, 1.35),
  );
}

// c_{k-2} as papers write it.
function subscripted(name) {
  const [, word, below] = /^(\w)_\{?([^{}]{1,4})\}?$/.exec(name) ?? [];
  return word ? [word, svg("tspan", { dy: 4, style: { "font-size": "9px" } }, below)] : [shortened(name, 7)];
}

// Labelled are the edges that would be chosen, and strong ones; what the others hold is shown on pointing at them.
function showEdge(edge, path, label, title) {
  const words = [];
  let weight = 1;
  let chosen = true;
  if (edge.choice !== null) {
    const choice = page.data.choices[edge.choice];
    const weights = choice.probabilities[page.at] ?? [];
    const best = choice.chosen[page.at]?.[0] ?? largest(weights); // not always the largest: "none" cannot be chosen
    weight *= weights[best] ?? 0;
    words.push(`${choice.labels[best]} ${number(weights[best], 2)}`);
    chosen = Boolean(choice.chosen[page.at]?.length);
    path.setAttribute("stroke-dasharray", /^(none|zero|zeroize)$/i.test(choice.labels[best]) ? "3 4" : "none");
  }
  if (edge.switch !== null) {
    const choice = page.data.choices[edge.switch[0]];
    const p = choice.probabilities[page.at]?.[edge.switch[1]] ?? 0;
    weight *= share(p);
    chosen = chosen && Boolean(choice.chosen[page.at]?.includes(edge.switch[1]));
    words.push(`taken ${number(p, 2)}`);
  }
  weigh(path, weight, chosen);
  label.textContent = chosen || weight >= 0.25 ? shortened(words[0], 20) : "";
  label.classList.toggle("chosen", chosen);
  title.textContent = [page.data.choices[edge.choice ?? edge.switch[0]].key, ...words].join(", ");
}

// The output takes those nodes that no switch takes.
function showLoose(switches, path) {
  let weight = 1;
  let chosen = true;
  for (const [index, candidate] of switches) {
    const choice = page.data.choices[index];
    weight *= 1 - share(choice.probabilities[page.at]?.[candidate] ?? 0);
    chosen = chosen && !choice.chosen[page.at]?.includes(candidate);
  }
  weigh(path, weight, chosen);
}
