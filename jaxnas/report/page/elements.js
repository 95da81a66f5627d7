// Making elements: text is only ever set as text, never as markup.

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.entries(value).forEach(([property, v]) => made.style.setProperty(property, v));
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const byId = (id) => document.getElementById(id);

function show(id, visible) {
  byId(id).hidden = !visible;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5)) return value.toExponential(2);
  return value.toFixed(Math.abs(value) >= 100 ? 1 : digits);
}

// The middle is what names of one group differ least in.
function shortened(text, most) {
  if (text.length <= most) return text;
  const tail = Math.ceil((most - 1) * 0.6);
  return text.slice(0, most - 1 - tail) + "…" + text.slice(-tail);
}

// A candidate's name without what all of its group begin with.
function brief(choice, index) {
  const label = choice.labels[index];
  const shared = choice.key.slice(0, choice.key.indexOf("/") + 1);
  return shared && label.startsWith(shared) && label.length > shared.length ? label.slice(shared.length) : label;
}

function colour(index) {
  return `var(--c${index % 8})`;
}

// What a bar shows of a weight: k·softmax may go beyond one.
function share(weight) {
  return Math.min(Math.max(weight ?? 0, 0), 1);
}

function largest(values) {
  let best = 0;
  values.forEach((value, i) => {
    if (value !== null && !(value <= values[best])) best = i;
  });
  return best;
}
