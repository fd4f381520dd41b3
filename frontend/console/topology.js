// The server drawn: a frontend, its workers, and the ways that requests take between them, as wide as their traffic.

import { bytes, count, el, ms, percent, rate, setText, svg } from "./dom.js";

const WIDEST = 9;

const bar = () => el("span", { class: "meter" }, el("span", {}));

function fill(meter, share, hot) {
  meter.firstChild.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  meter.classList.toggle("hot", share > hot);
}

export class Topology {
  constructor() {
    this.lines = svg("svg", { class: "ways", "aria-hidden": true });
    this.columns = Object.fromEntries(
      ["frontend", "prefill", "decode"].map((role) => [role, el("div", { class: `column ${role}` })]),
    );
    this.element = el("div", { class: "topology" }, this.lines, ...Object.values(this.columns));
    this.nodes = new Map(); // by worker, and "" the frontend
    this.ways = new Map();
    this.history = null;
    this.table = el("ul", { class: "hidden" });
    this.element.append(this.table);
    new ResizeObserver(() => this.connect()).observe(this.element);
  }

  draw(status, history) {
    this.status = status;
    this.history = history;
    this.frontend(status);
    const names = new Set([""]);
    for (const worker of status.workers) names.add(this.worker(worker));
    for (const [name, node] of this.nodes) {
      if (names.has(name)) continue;
      node.element.remove();
      this.nodes.delete(name);
    }
    this.columns.prefill.hidden = !status.workers.some((worker) => worker.role === "prefill");
    this.connect();
  }

  node(name, role, rows) {
    if (!this.nodes.has(name)) {
      const title = el("strong", { class: "name" });
      const state = el("span", { class: "state small" });
      const values = rows.map((label) => ({ label: el("dt", { text: label }), value: el("dd") }));
      const list = el("dl", {}, ...values.flatMap((row) => [row.label, row.value]));
      const element = el(
        "article",
        { class: "node" },
        el("header", {}, el("span", { class: "dot" }), title, el("span", { class: "role small muted", text: role })),
        state,
        list,
      );
      this.nodes.set(name, { element, title, state, values: values.map((row) => row.value), list });
      this.columns[role].append(element);
    }
    return this.nodes.get(name);
  }

  frontend(status) {
    const node = this.node("", "frontend", ["Under way", "Queue", "Answers", "Tokens"]);
    const { last_minute: minute } = status;
    node.element.dataset.kind = status.ready ? "ready" : "bad";
    setText(node.title, "frontend");
    const texts = [
      count(status.in_flight),
      `${count(status.queued_requests)} of ${count(status.max_queued_requests)}`,
      `${rate(minute.answers_per_s)}/s`,
      `${rate(minute.output_tokens_per_s)}/s`,
    ];
    texts.forEach((text, index) => setText(node.values[index], text));
  }

  worker(worker) {
    const name = worker.worker_id || worker.address;
    const node = this.node(name, worker.role, ["Batch", "Waiting", "KV pool", "Speed"]);
    node.element.dataset.kind = worker.ready ? "ready" : "bad";
    node.element.title = worker.address;
    setText(node.title, name);
    setText(
      node.state,
      worker.ready
        ? worker.leaked_blocks
          ? `${worker.leaked_blocks} KV blocks leaked`
          : ""
        : worker.state || "not ready",
    );
    node.list.hidden = !worker.ready;
    if (!worker.ready) return name;
    const [batch, waiting, pool, speed] = node.values;
    measured(
      batch,
      worker.running / (worker.max_sequences || 1),
      `${count(worker.running)}/${count(worker.max_sequences)}`,
      0.95,
    );
    setText(waiting, worker.queued ? `${count(worker.queued)} (${count(worker.queued_tokens)} tokens)` : "0");
    measured(pool, worker.pool_share, percent(worker.pool_share), 0.9);
    setText(speed, speedOf(worker));
    return name;
  }

  // Draws the ways anew, where the nodes are now.
  connect() {
    if (!this.status || !this.element.isConnected) return;
    const box = this.element.getBoundingClientRect();
    this.lines.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const traffic = trafficOf(this.status, this.history);
    const most = Math.max(...traffic.map((way) => way.number), 1);
    const seen = new Set();
    for (const way of traffic) {
      const path = this.path(way, box);
      if (!path) continue;
      seen.add(way.name);
      this.way(way, path, most);
    }
    for (const [name, drawn] of this.ways) {
      if (seen.has(name)) continue;
      drawn.group.remove();
      this.ways.delete(name);
    }
    const told = traffic.filter((way) => way.number);
    this.table.replaceChildren(
      ...told.map((way) => el("li", { text: `${way.from || "frontend"} to ${way.to}: ${perMinute(way)}` })),
    );
  }

  path(way, box) {
    const [from, to] = [this.nodes.get(way.from), this.nodes.get(way.to)].map((node) =>
      node?.element.getBoundingClientRect(),
    );
    if (!from || !to) return null;
    const across = from.right <= to.left;
    const a = across
      ? [from.right - box.left, from.top + from.height / 2 - box.top]
      : [from.left + from.width / 2 - box.left, from.bottom - box.top];
    const b = across
      ? [to.left - box.left, to.top + to.height / 2 - box.top]
      : [to.left + to.width / 2 - box.left, to.top - box.top];
    if (way.around && !this.columns.prefill.hidden) return around(from, to, box, across, a, b);
    const [dx, dy] = across ? [(b[0] - a[0]) / 2, 0] : [0, (b[1] - a[1]) / 2];
    return `M${a}C${a[0] + dx} ${a[1] + dy} ${b[0] - dx} ${b[1] - dy} ${b}`;
  }

  way(way, path, most) {
    if (!this.ways.has(way.name)) {
      const line = svg("path", { class: "way" });
      const flow = svg("path", { class: "flow" });
      const label = svg("text", { class: "way-label" });
      const group = svg("g", { class: way.kind }, line, flow, label);
      this.lines.append(group);
      this.ways.set(way.name, { group, line, flow, label });
    }
    const { group, line, flow, label } = this.ways.get(way.name);
    const width = way.number ? 1.5 + (WIDEST - 1.5) * Math.sqrt(way.number / most) : 1;
    line.setAttribute("d", path);
    flow.setAttribute("d", path);
    line.style.strokeWidth = `${width}px`;
    flow.style.strokeWidth = `${Math.max(width / 2.5, 1)}px`;
    group.classList.toggle("idle", !way.number);
    const told = way.around ? `${perMinute(way)} to ${way.to}` : perMinute(way);
    setText(label, way.number && this.ways.size <= 16 ? told : "");
    const at = line.getTotalLength() * way.labelAt;
    const [before, place, after] = [at - 4, at, at + 4].map((length) => line.getPointAtLength(length));
    // Above the way; where that climbs or falls, on the side that is free.
    const slope = (after.y - before.y) / (after.x - before.x || 1);
    const side = Math.abs(slope) < 0.15 ? 0 : Math.sign(slope);
    label.setAttribute("text-anchor", ["end", "middle", "start"][side + 1]);
    label.setAttribute("x", place.x + side * 3);
    label.setAttribute("y", place.y - width / 2 - 4);
  }
}

function measured(cell, share, text, hot) {
  if (!cell.firstChild) cell.append(bar(), el("span", { class: "value" }));
  fill(cell.firstChild, share, hot);
  setText(cell.lastChild, text);
}

function speedOf(worker) {
  const parts = [];
  if (worker.role === "decode" && worker.decode_step_s) parts.push(`${ms(1000 * worker.decode_step_s)}/step`);
  if (worker.tokens_per_s) parts.push(`${count(worker.tokens_per_s)} tok/s`);
  if (worker.transfer_bytes_per_s) parts.push(`KV ${bytes(worker.transfer_bytes_per_s)}/s`);
  return parts.join(" · ") || "not measured yet";
}

// Below (or beside) the prefill workers, from the frontend to a decode worker that computes the prompt itself.
function around(from, to, box, across, a, b) {
  if (across) {
    const y = box.height - 14;
    const x = from.left + from.width / 2 - box.left;
    const near = b[0] - 28;
    return `M${x} ${from.bottom - box.top}L${x} ${y - 12}Q${x} ${y} ${x + 12} ${y}L${near - 12} ${y}Q${near} ${y} ${near} ${y - 12}L${near} ${b[1] + 12}Q${near} ${b[1]} ${b}`;
  }
  const x = box.width - 8;
  const [y, end] = [from.top + from.height / 2 - box.top, to.top + to.height / 2 - box.top];
  return `M${from.right - box.left} ${y}L${x - 8} ${y}Q${x} ${y} ${x} ${y + 8}L${x} ${end - 8}Q${x} ${end} ${x - 8} ${end}L${to.right - box.left} ${end}`;
}

// Every way that there is, with the requests of the last minute.
function trafficOf(status, history) {
  const of = (role) =>
    status.workers
      .filter((worker) => worker.role === role && worker.ready)
      .map((worker) => worker.worker_id || worker.address);
  const [prefills, decodes] = [of("prefill"), of("decode")];
  const links = history?.links || [];
  const over = history?.links_over_s || 60;
  const number = (test) => links.filter(test).reduce((sum, link) => sum + link.num_requests, 0);
  const ways = [];
  const add = (from, to, kind, total, more) =>
    ways.push({ name: `${from}>${to}>${kind}`, from, to, kind, number: total, over, labelAt: 0.5, ...more });
  for (const prefill of prefills) {
    add(
      "",
      prefill,
      "prompts",
      number((link) => link.prefill === prefill),
      { labelAt: prefills.length > 1 ? 0.6 : 0.5 },
    );
    for (const decode of decodes)
      add(
        prefill,
        decode,
        "kv",
        number((link) => link.prefill === prefill && link.decode === decode),
        { labelAt: 0.35 },
      );
  }
  // All of them take the same way around; their labels stand on it one after another.
  decodes.forEach((decode, index) =>
    add(
      "",
      decode,
      "local",
      number((link) => link.prefill === null && link.decode === decode),
      { around: true, labelAt: 0.25 + (0.5 * (index + 0.5)) / decodes.length },
    ),
  );
  return ways;
}

const perMinute = (way) => `${rate((60 * way.number) / way.over)}/min`;
