// Curves over epochs, drawn by plotly when they are first seen.

const ROLE_COLOURS = { train: 6, valid: 2, supernet: 0, sampled: 0, derived: 1, test: 3 };
const charts = new Map(); // element -> chart
let seen = null;
let frameAsked = false;

// plotly reads tags and entities in text; what a user named is to be seen as it is.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// series: [{name, colour (a number), values}]
function addChart(place, options) {
  const chart = { place, drawn: false, visible: false, epoch: null, ...options };
  charts.set(place, chart);
  if (seen) seen.observe(place);
}

function forgetCharts() {
  for (const [place, chart] of charts) {
    if (place.isConnected) continue;
    seen?.unobserve(place);
    if (chart.drawn) window.Plotly.purge(place);
    charts.delete(place);
  }
}

function startCharts() {
  if (!window.Plotly) return;
  seen = new IntersectionObserver(
    (entries) => {
      performance.mark("plotting");
      for (const entry of entries) {
        const chart = charts.get(entry.target);
        if (!chart) continue;
        chart.visible = entry.isIntersecting;
        if (chart.visible) draw(chart);
      }
      performance.mark("plotted");
    },
    { rootMargin: "100px" },
  );
  for (const place of charts.keys()) seen.observe(place);
}

function draw(chart) {
  if (!seen || !chart.visible) return;
  if (chart.drawn && chart.version === page.version) return mark(chart);
  const x = page.data.epochs;
  const traces = chart.series().map((series) => ({
    x,
    y: series.values,
    name: plain(series.name),
    type: "scatter",
    connectgaps: true,
    mode: x.length <= 40 ? "lines+markers" : "lines",
    marker: { size: 4 },
    line: { width: 2, color: token(`c${series.colour % 8}`), dash: series.colour >= 8 ? "dash" : "solid" },
    hovertemplate: "%{y:.4g}",
  }));
  const axis = {
    exponentformat: "e",
    gridcolor: token("soft"),
    linecolor: token("line"),
    zeroline: false,
    fixedrange: !page.pointer,
    automargin: true,
  };
  const layout = {
    margin: { l: 44, r: 8, t: 6, b: 26 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: token("muted") },
    xaxis: {
      ...axis,
      showgrid: false,
      tickformat: "d",
      ...(x.length <= 8 ? { dtick: 1 } : { nticks: 8 }),
      hoverformat: "d",
      unifiedhovertitle: { text: "epoch %{x}" },
      spikethickness: -1, // one line, without a halo
      spikecolor: token("muted"),
      spikedash: "solid",
      range: reach(x),
    },
    yaxis: {
      ...axis,
      ...(chart.log ? { type: "log", dtick: "D2" } : { nticks: 5 }),
      range: chart.range,
      rangemode: chart.fromZero ? "tozero" : "normal",
    },
    hovermode: "x unified",
    hoverdistance: -1,
    hoverlabel: { bgcolor: token("card"), bordercolor: token("line"), font: { color: token("text") } },
    dragmode: page.pointer ? "zoom" : false,
    shapes: [marker()],
  };
  window.Plotly.react(chart.place, traces, layout, { displayModeBar: false, responsive: true, typesetMath: false });
  if (!chart.drawn) chart.place.on("plotly_click", (event) => choose(event.points[0].pointIndex));
  Object.assign(chart, { drawn: true, version: page.version, epoch: page.at });
}

function reach(x) {
  return [x[0] - 0.3, x[x.length - 1] + 0.3];
}

function marker() {
  const x = page.data.epochs[page.at];
  return {
    type: "line",
    x0: x,
    x1: x,
    yref: "paper",
    y0: 0,
    y1: 1,
    line: { color: token("text"), width: 1.5, dash: "dot" },
  };
}

function mark(chart) {
  if (chart.epoch === page.at) return;
  chart.epoch = page.at;
  window.Plotly.relayout(chart.place, { shapes: [marker()] });
}

// Words at once; lines once a frame, however fast the slider moves.
function updateCharts() {
  for (const chart of charts.values()) chart.update?.();
  if (frameAsked) return;
  frameAsked = true;
  requestAnimationFrame(() => {
    frameAsked = false;
    for (const chart of charts.values()) draw(chart);
  });
}

function buildPanels() {
  for (const id of ["panels", "minor"]) {
    byId(id).replaceChildren(...page.data.panels.filter((panel) => panel.main === (id === "panels")).map(buildPanel));
  }
  show("curves", page.data.panels.length > 0);
  show("more", byId("minor").childElementCount > 0);
}

function buildPanel(panel) {
  const now = () => page.data.panels.find((other) => other.title === panel.title) ?? panel;
  const hues = panel.series.map((series, i) => ROLE_COLOURS[series.role] ?? i);
  const values = panel.series.map(() => element("b"));
  const legend = panel.series.map((series, i) =>
    element(
      "span",
      { style: { "--chip": colour(hues[i]) } },
      element("span", { class: "chip" }),
      `${shortened(series.name, 60)} `,
      values[i],
    ),
  );
  const place = element("div", { class: "plot", role: "img", "aria-label": `${panel.title} over the epochs` });
  addChart(place, {
    log: panel.log,
    range: panel.range ?? undefined,
    series: () => now().series.map((series, i) => ({ ...series, colour: hues[i] ?? i })),
    update: () =>
      now().series.forEach((series, i) => {
        if (values[i]) values[i].textContent = number(series.values[page.at]);
      }),
  });
  return element("figure", {}, element("h3", {}, panel.title), element("p", { class: "legend" }, ...legend), place);
}
