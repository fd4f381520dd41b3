// A ledger drawn: as one bar with its legend, and as a waterfall on one axis of time.

import { SEGMENTS } from "./facts.js";
import { el, ms, percent, svg } from "./dom.js";

const BY_NAME = new Map(SEGMENTS.map((segment) => [segment.name, segment]));

export const meaning = (name) => BY_NAME.get(name)?.meaning || "";
export const remedy = (name) => BY_NAME.get(name)?.remedy || "";

const swatch = (name) => el("span", { class: `swatch s-${name}` });

// One bar of all segments, as wide as there is room.
export function splitBar(segments, wholeMs) {
  const told = Object.entries(segments).map(([name, value]) => `${name} ${ms(value)}`);
  const bar = svg("svg", {
    class: "split",
    viewBox: "0 0 100 1",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": told.join(", "),
  });
  let at = 0;
  for (const [name, value] of Object.entries(segments)) {
    const width = wholeMs > 0 ? (100 * value) / wholeMs : 0;
    if (width > 0)
      bar.append(
        svg(
          "rect",
          { class: `s-${name}`, x: at, width, y: 0, height: 1 },
          svg("title", { text: `${name} ${ms(value)}` }),
        ),
      );
    at += width;
  }
  return bar;
}

// The `most` largest segments in words.
export function legend(segments, wholeMs, most) {
  const ordered = Object.entries(segments).sort((a, b) => b[1] - a[1]);
  const items = ordered
    .slice(0, most)
    .filter(([, value]) => value > 0)
    .map(([name, value]) =>
      el("li", { title: meaning(name) }, swatch(name), `${name} ${ms(value)}, ${percent(value / (wholeMs || 1))}`),
    );
  return el("ul", { class: "legend" }, ...items);
}

// Everything that is known of one request's time.
export function waterfall(record) {
  const first = record.ttft_ms;
  const knownMs = first === null ? record.e2e_ms : first + (record.second_token_ms || 0);
  const rows = el("tbody");
  let at = 0;
  let wayAt = 0;
  const add = (segments, sumMs) => {
    for (const [name, value] of Object.entries(segments)) {
      if (name === "prefill_queue") {
        wayAt = at; // the way there is of egress, and before the worker's
        at += record.way_ms;
      }
      const way = name === "egress" ? record.way_ms : 0;
      const pieces = [
        [wayAt, way],
        [at, value - way],
      ];
      rows.append(line(name, value, sumMs, pieces, knownMs));
      at += value - way;
    }
  };
  const total = (name, value) =>
    rows.append(
      el(
        "tr",
        { class: "total" },
        el("th", { scope: "row", text: name }),
        el("td", { class: "num", text: ms(value) }),
        el("td"),
        el("td"),
      ),
    );
  add(record.ttft_segments, first ?? record.e2e_ms);
  if (first === null) total("no first token", record.e2e_ms);
  else {
    total("first token", first);
    if (record.second_token_ms !== null) {
      add(record.second_token_segments, record.second_token_ms);
      total("second token", knownMs);
    }
  }
  const axis = el("div", { class: "axis" }, el("span", { text: "0" }), el("span", { text: ms(knownMs) }));
  const head = el(
    "tr",
    {},
    el("th", { scope: "col", text: "Segment" }),
    el("th", { scope: "col", class: "num", text: "Time" }),
    el("th", { scope: "col", class: "num", text: "Share" }),
    el("th", { scope: "col" }, axis),
  );
  return el(
    "table",
    { class: "waterfall" },
    el("caption", { class: "hidden", text: "Where the time went" }),
    el("thead", {}, head),
    rows,
  );
}

function line(name, value, sumMs, pieces, wholeMs) {
  const part = (ms) => (wholeMs > 0 ? `${(100 * ms) / wholeMs}%` : "0");
  const bars = pieces
    .filter(([, ms]) => ms > 0)
    .map(([at, ms]) => el("span", { class: `fall s-${name}`, style: { left: part(at), width: part(ms) } }));
  return el(
    "tr",
    { title: meaning(name) },
    el("th", { scope: "row", text: name }),
    el("td", { class: "num", text: ms(value) }),
    el("td", { class: "num", text: sumMs > 0 ? percent(value / sumMs) : "–" }),
    el("td", { class: "falls" }, ...bars),
  );
}
