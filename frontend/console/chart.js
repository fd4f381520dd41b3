// Charts over time in SVG: stacked bars, and lines. Small, and drawn anew whenever something changes.

import { clock, el, setText, svg } from "./dom.js";

const PAD = { left: 52, right: 8, top: 8, bottom: 20 };
const NICE = [1, 2, 2.5, 5, 10];

function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * NICE.find((each) => each * power >= value * 0.999);
}

// What both kinds share: a frame of axes, and a note at the place that the pointer or the arrow keys choose.
class Chart {
  constructor(label, height) {
    this.height = height;
    this.note = el("div", { class: "note", hidden: true });
    this.picture = svg("svg", { class: "chart", role: "img", "aria-label": label });
    this.said = el("span", { class: "hidden", "aria-live": "polite" });
    this.element = el(
      "div",
      { class: "chart-box", tabindex: 0, "aria-label": `${label}; arrow keys read values` },
      this.picture,
      this.note,
      this.said,
    );
    this.places = []; // { x, width, lines: [[class, text]] }
    this.chosen = -1;
    this.element.addEventListener("pointermove", (event) => this.choose(this.nearest(event)));
    this.element.addEventListener("pointerleave", () => this.choose(-1));
    this.element.addEventListener("blur", () => this.choose(-1));
    this.element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.again?.()).observe(this.element);
  }

  nearest(event) {
    const x = event.clientX - this.picture.getBoundingClientRect().left;
    return this.places.findIndex((place) => x >= place.x && x < place.x + place.width);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.places.length) return;
    event.preventDefault();
    const from = this.chosen < 0 ? (step > 0 ? -1 : this.places.length) : this.chosen;
    this.choose(Math.min(Math.max(from + step, 0), this.places.length - 1));
    setText(this.said, this.places[this.chosen].lines.map(([, text]) => text).join(", "));
  }

  choose(index) {
    this.chosen = index;
    const place = this.places[index];
    this.note.hidden = !place;
    this.picture.querySelector(".cursor")?.remove();
    if (!place) return;
    const middle = place.x + place.width / 2;
    this.picture.append(
      svg("line", { class: "cursor", x1: middle, x2: middle, y1: PAD.top, y2: this.height - PAD.bottom }),
    );
    this.note.replaceChildren(
      ...place.lines.map(([kind, text]) => el("div", {}, kind ? el("span", { class: `swatch ${kind}` }) : null, text)),
    );
    const room = this.element.clientWidth - this.note.offsetWidth;
    this.note.style.left = `${Math.min(Math.max(middle > this.element.clientWidth / 2 ? middle - this.note.offsetWidth - 12 : middle + 12, 0), Math.max(room, 0))}px`;
  }

  // Empties the picture and draws axes; returns what turns times and values into pixels.
  frame(from, to, top, format) {
    const width = Math.max(this.element.clientWidth, 160);
    const inner = { width: width - PAD.left - PAD.right, height: this.height - PAD.top - PAD.bottom };
    this.picture.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.picture.setAttribute("height", this.height);
    const x = (time) => PAD.left + (inner.width * (time - from)) / (to - from);
    const y = (value) => PAD.top + inner.height * (1 - value / top);
    const marks = [0, 0.5, 1].map((part) => {
      const at = y(part * top);
      const label = svg("text", {
        class: "tick",
        x: PAD.left - 8,
        y: at,
        "text-anchor": "end",
        "dominant-baseline": "middle",
        text: format(part * top),
      });
      return svg("g", {}, svg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: at, y2: at }), label);
    });
    const times = [0, 0.5, 1].map((part) => {
      const anchor = ["start", "middle", "end"][2 * part];
      const words = clock(from + part * (to - from)).slice(0, 5);
      return svg("text", {
        class: "tick",
        x: x(from + part * (to - from)),
        y: this.height - 4,
        "text-anchor": anchor,
        text: words,
      });
    });
    this.picture.replaceChildren(...marks, ...times);
    return { x, y };
  }
}

export class StackedBars extends Chart {
  // `bars`: [{ at, width, parts: [[name, value]], lines }], oldest first.
  draw({ from, to, bars, format }) {
    this.again = () => this.draw({ from, to, bars, format });
    const top = niceTop(Math.max(...bars.map((bar) => bar.parts.reduce((sum, [, value]) => sum + value, 0)), 0));
    const { x, y } = this.frame(from, to, top, format);
    this.places = bars.map((bar) => ({ x: x(bar.at), width: x(bar.at + bar.width) - x(bar.at), lines: bar.lines }));
    for (const bar of bars) {
      const left = x(bar.at) + 0.5;
      const width = Math.max(x(bar.at + bar.width) - left - 1, 1);
      let below = 0;
      for (const [name, value] of bar.parts) {
        if (!(value > 0)) continue;
        const upper = y(below + value);
        this.picture.append(
          svg("rect", { class: `s-${name}`, x: left, width, y: upper, height: Math.max(y(below) - upper, 0) }),
        );
        below += value;
      }
    }
    this.choose(this.chosen < this.places.length ? this.chosen : -1);
  }
}

export class Lines extends Chart {
  // `series`: [{ name, kind, values }], with values at `times`. `top`: of the axis, or as much as it takes.
  draw({ from, to, times, series, format, top, target }) {
    this.again = () => this.draw({ from, to, times, series, format, top, target });
    const most = Math.max(...series.flatMap((each) => each.values.filter((value) => value !== null)), 0);
    const { x, y } = this.frame(from, to, top ?? Math.max(niceTop(most), 1), format);
    if (target !== undefined)
      this.picture.append(svg("line", { class: "target", x1: x(from), x2: x(to), y1: y(target), y2: y(target) }));
    for (const { kind, values } of series) {
      const points = times.map((time, index) => [x(time), values[index]]).filter(([, value]) => value !== null);
      const path = points
        .map(([left, value], index) => `${index ? "L" : "M"}${left.toFixed(1)} ${y(value).toFixed(1)}`)
        .join("");
      if (path) this.picture.append(svg("path", { class: `line ${kind}`, d: path }));
      const last = points.at(-1);
      if (last) this.picture.append(svg("circle", { class: `dot ${kind}`, cx: last[0], cy: y(last[1]), r: 3 }));
    }
    this.places = times.map((time, index) => {
      const next = times[index + 1] ?? to;
      const lines = series.map((each) => [
        each.kind,
        `${each.name} ${each.values[index] === null ? "–" : format(each.values[index])}`,
      ]);
      return { x: x(time), width: Math.max(x(next) - x(time), 2), lines: [["", clock(time)], ...lines] };
    });
    this.choose(this.chosen < this.places.length ? this.chosen : -1);
  }
}
