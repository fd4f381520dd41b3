// Making elements, and numbers in words. Texts become text nodes and nothing else.

const SVG = "http://www.w3.org/2000/svg";

// `given`: attributes; but `text`, `on` (handlers by event) and `style` (properties by name) are what they say.
function made(node, given, children) {
  const { text, on, style, ...attributes } = given;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  for (const [name, handler] of Object.entries(on || {})) node.addEventListener(name, handler);
  for (const [name, value] of Object.entries(style || {})) node.style.setProperty(name, value);
  if (text !== undefined) node.append(String(text));
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const el = (tag, given = {}, ...children) => made(document.createElement(tag), given, children);
export const svg = (tag, given = {}, ...children) => made(document.createElementNS(SVG, tag), given, children);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function button(label, press, given = {}) {
  return el("button", { type: "button", text: label, on: { click: press }, ...given });
}

// A choice of one of some, as buttons in a row. Calls `chosen` with the name.
export function choice(label, options, current, chosen) {
  const group = el("div", { class: "choice", role: "group", "aria-label": label });
  for (const [name, text] of options) {
    const press = () => {
      for (const other of group.children) other.setAttribute("aria-pressed", other.dataset.name === name);
      chosen(name);
    };
    group.append(button(text, press, { "data-name": name, "aria-pressed": String(name === current) }));
  }
  return group;
}

export const empty = (title, text) =>
  el("div", { class: "empty" }, el("strong", { text: title }), text ? el("p", { text }) : null);

export function card(title, note, ...children) {
  const heading = el("h2", { text: title });
  const head = el("div", { class: "card-head" }, heading, note instanceof Node ? note : null);
  const text = typeof note === "string" && note ? el("p", { class: "muted small", text: note }) : null;
  return el("section", { class: "card" }, head, text, ...children);
}

// -- numbers, as `tandem top` has them --------------------------------------------------------------------------------

const grouped = (value, digits) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value >= 100000) return `${grouped(value / 1000, 0)} s`;
  if (value >= 1000) return `${grouped(value / 1000, 2)} s`;
  return value >= 100 ? `${grouped(value, 0)} ms` : value >= 10 ? `${grouped(value, 1)} ms` : `${grouped(value, 2)} ms`;
}

export function span(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d`;
}

export const count = (value) => grouped(value, 0);
export const rate = (value) => grouped(value, value >= 10 || Number.isInteger(value) ? 0 : 1);
// What is not all is never 100%.
export const percent = (share) =>
  share > 0.99 && share < 1 ? `${grouped(Math.min(100 * share, 99.9), 1)}%` : `${grouped(100 * share, 0)}%`;
export const bytes = (size) => (size >= 1e9 ? `${grouped(size / 1e9, 1)} GB` : `${grouped(size / 1e6, 0)} MB`);
export const words = (reason) => reason.toLowerCase().replaceAll("_", " ");
export const clock = (unix) =>
  new Date(unix * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// The largest of a ledger's segments: [name, milliseconds].
export function largest(segments) {
  return Object.entries(segments).reduce((most, each) => (each[1] > most[1] ? each : most), ["", 0]);
}
