// Live: the server now and in the last half hour. Shares, queues and pools of before the page was opened are not known.

import { Lines, StackedBars } from "./chart.js";
import { card, choice, clock, count, el, empty, ms, percent, rate, setText } from "./dom.js";
import { SEGMENTS } from "./facts.js";
import { added, grouped, tpotKept, ttftKept } from "./history.js";
import { decisionTable } from "./decisions.js";
import { Tiles } from "./tiles.js";
import { Topology } from "./topology.js";
import { meaning } from "./waterfall.js";

const HISTORY_S = 5;
const BARS = 30;
const RANGES = [
  ["300", "5 min"],
  ["900", "15 min"],
  ["1800", "30 min"],
];
const LEDGERS = [
  ["ttft", "First token"],
  ["second_token", "Second token"],
];
const OBJECTIVE = 0.95;
const SLOS = [
  {
    name: "ttft",
    title: "First token within",
    limits: "ttft_limits_s",
    usual: 2.5,
    kept: ttftKept,
    kind: "s-ttft-kept",
  },
  {
    name: "tpot",
    title: "Each further token within",
    limits: "tpot_limits_s",
    usual: 0.1,
    kept: tpotKept,
    kind: "s-tpot-kept",
  },
];
const MOST_SAMPLES = 900;

export function liveView(app) {
  let range = 300;
  let ledger = "ttft";
  let history = null;
  let stop = null;
  const samples = [];

  const tiles = new Tiles();
  const topology = new Topology();
  const split = new StackedBars("Time to token by segment", 220);
  const splitLegend = el("ul", { class: "legend" });
  const splitNothing = empty("No request has ended in this time", "Send one from Chat, or choose a longer time.");
  const slos = SLOS.map((slo) => ({
    ...slo,
    select: el("select", { id: `slo-${slo.name}` }),
    figure: el("strong", { class: "figure" }),
  }));
  const slo = new Lines("Share of requests within the limits", 150);
  const queues = new Lines("Requests that wait", 150);
  const pools = new Lines("Share of KV blocks in use", 150);
  const decisions = el("div");
  const failure = el("p", { class: "failure", hidden: true });

  for (const each of slos) {
    each.select.addEventListener("change", () => {
      localStorage.setItem(`tandem-slo-${each.name}`, each.select.value);
      drawHistory();
    });
  }
  const head = el(
    "div",
    { class: "view-head" },
    el("h1", { text: "Live" }),
    el("span", { class: "spacer" }),
    choice("Time", RANGES, String(range), (name) => {
      range = Number(name);
      drawHistory();
      drawSamples();
    }),
  );
  const pickLedger = choice("Which token", LEDGERS, ledger, (name) => {
    ledger = name;
    drawHistory();
  });
  const element = el(
    "div",
    { class: "live" },
    head,
    failure,
    tiles.element,
    card("Who sends whom", "Ways are as wide as their requests of the last minute.", topology.element, wayLegend()),
    el(
      "div",
      { class: "columns wide-left" },
      card("Where the time goes", pickLedger, splitNothing, split.element, splitLegend),
      card(
        "Promises kept",
        "Of all requests but those that failed by their caller's doing.",
        el(
          "div",
          { class: "slos" },
          ...slos.map((each) =>
            el(
              "div",
              { class: "slo" },
              each.figure,
              el("label", { for: `slo-${each.name}` }, el("span", { class: `swatch ${each.kind}` }), each.title),
              each.select,
            ),
          ),
        ),
        slo.element,
      ),
    ),
    el(
      "div",
      { class: "columns" },
      card(
        "Requests that wait",
        "Since this page was opened.",
        queues.element,
        lineLegend([
          ["s-grant", "for a decode worker's room"],
          ["s-prefill_queue", "on prefill workers"],
          ["s-decode_step", "on decode workers"],
        ]),
      ),
      card(
        "KV pools in use",
        "Since this page was opened. What only the prefix cache holds counts as free.",
        pools.element,
        lineLegend([
          ["s-prefill_compute", "prefill"],
          ["s-egress", "decode"],
        ]),
      ),
    ),
    card(
      "The router's latest",
      "Who computed the prompt, who the answer, and what was predicted of both ways.",
      decisions,
    ),
  );

  app.watchers.add((status) => {
    sample(status);
    if (!stop) return;
    drawStatus(status);
    drawSamples();
  });

  function sample(status) {
    const of = (role) => status.workers.filter((worker) => worker.role === role);
    const waiting = (role) => of(role).reduce((sum, worker) => sum + worker.queued, 0);
    const used = (role) => status.pool_share[role] ?? null;
    samples.push({
      at: status.at_s,
      queues: [status.queued_requests, waiting("prefill"), waiting("decode")],
      pools: [used("prefill"), used("decode")],
    });
    if (samples.length > MOST_SAMPLES) samples.shift();
  }

  function drawStatus(status) {
    tiles.draw(status);
    topology.draw(status, history);
    decisions.replaceChildren(decisionTable(status));
  }

  function drawSamples() {
    if (!samples.length || !stop) return;
    const to = samples.at(-1).at;
    const seen = samples.filter((each) => each.at >= to - range);
    const times = seen.map((each) => each.at);
    const line = (name, kind, pick) => ({ name, kind, values: seen.map(pick) });
    queues.draw({
      from: to - range,
      to,
      times,
      format: rate,
      series: [
        line("for room", "s-grant", (each) => each.queues[0]),
        line("on prefill", "s-prefill_queue", (each) => each.queues[1]),
        line("on decode", "s-decode_step", (each) => each.queues[2]),
      ],
    });
    pools.draw({
      from: to - range,
      to,
      times,
      top: 1,
      format: percent,
      series: [
        line("prefill", "s-prefill_compute", (each) => each.pools[0]),
        line("decode", "s-egress", (each) => each.pools[1]),
      ],
    });
  }

  function drawHistory() {
    if (!history || !stop) return;
    const each = range / BARS;
    const { from, to, groups } = grouped(history, range, each);
    drawSplit(from, to, each, groups);
    drawSlos(from, to, each, groups);
    if (app.status) topology.draw(app.status, history);
  }

  function drawSplit(from, to, each, groups) {
    const [num, sum, parts] =
      ledger === "ttft"
        ? ["num_answered", "ttft_ms", "ttft_segments"]
        : ["num_second", "second_token_ms", "second_token_segments"];
    const names = SEGMENTS.map((segment) => segment.name);
    const bars = groups
      .filter((group) => group.sum[num])
      .map(({ at, sum: total }) => {
        const means = names
          .filter((name) => name in total[parts])
          .map((name) => [name, total[parts][name] / total[num]]);
        const told = [...means]
          .reverse()
          .filter(([, value]) => value >= 0.005)
          .map(([name, value]) => [`s-${name}`, `${name} ${ms(value)}`]);
        return {
          at,
          width: each,
          parts: means,
          lines: [["", `${clock(at)}, ${count(total[num])} requests, mean ${ms(total[sum] / total[num])}`], ...told],
        };
      });
    splitNothing.hidden = bars.length > 0;
    split.element.hidden = splitLegend.hidden = !bars.length;
    split.draw({ from, to, bars, format: ms });
    drawLegend(groups, num, parts);
  }

  function drawLegend(groups, num, parts) {
    const all = added(groups.map((group) => group.sum));
    const sums = all[parts];
    const whole = Object.values(sums).reduce((sum, value) => sum + value, 0);
    const items = SEGMENTS.filter((segment) => segment.name in sums).map(({ name }) =>
      el(
        "li",
        { title: meaning(name) },
        el("span", { class: `swatch s-${name}` }),
        name,
        el("span", {
          class: "muted",
          text: ` ${ms(sums[name] / (all[num] || 1))}, ${percent(sums[name] / (whole || 1))}`,
        }),
      ),
    );
    splitLegend.replaceChildren(...items);
  }

  function drawSlos(from, to, each, groups) {
    const all = added(groups.map((group) => group.sum));
    const series = slos.map((one) => {
      const limits = history[one.limits];
      if (one.select.options.length !== limits.length) {
        const wanted = Number(localStorage.getItem(`tandem-slo-${one.name}`)) || one.usual;
        one.select.replaceChildren(
          ...limits.map((limit) => el("option", { value: limit, text: ms(1000 * limit), selected: limit === wanted })),
        );
      }
      const index = one.select.selectedIndex;
      const share = one.kept(all, index);
      setText(one.figure, share === null ? "–" : percent(share));
      one.figure.dataset.kind = share === null ? "" : share >= OBJECTIVE ? "ready" : "bad";
      return {
        name: one.title.toLowerCase(),
        kind: one.kind,
        values: groups.map((group) => one.kept(group.sum, index)),
      };
    });
    slo.draw({
      from,
      to,
      times: groups.map((group) => group.at + each / 2),
      series,
      format: percent,
      top: 1,
      target: OBJECTIVE,
    });
  }

  async function look() {
    try {
      history = await app.get("debug/history");
      failure.hidden = true;
      drawHistory();
    } catch (error) {
      if (error.status === 401) return;
      setText(failure, `No history from the server: ${error.message}`);
      failure.hidden = false;
    }
  }

  return {
    element,
    shown() {
      stop?.();
      stop = app.repeat(HISTORY_S, look);
      if (app.status) drawStatus(app.status);
      drawHistory();
      drawSamples();
    },
    hidden() {
      stop?.();
      stop = null;
    },
  };
}

const lineLegend = (names) =>
  el(
    "ul",
    { class: "legend" },
    ...names.map(([kind, text]) => el("li", {}, el("span", { class: `swatch ${kind}` }), text)),
  );

const wayLegend = () =>
  lineLegend([
    ["w-prompts", "prompts to prefill"],
    ["w-kv", "KV to decode"],
    ["w-local", "prompts that decode computes itself"],
  ]);
