// Tune: which side binds, prefill or decode, and what one more worker would do. The verdict is the server's.

import { card, count, el, empty, ms, percent, rate, setText, span } from "./dom.js";

const LOOK_S = 5;
const TITLES = {
  idle: "Nothing to judge yet",
  neither: "Neither side binds",
  prefill: "Prefill binds",
  decode: "Decode binds",
  both: "Both sides bind",
};

export function tuneView(app) {
  let stop = null;
  const shown = el("div", { class: "tune" }, el("p", { class: "muted", text: "reading…" }));
  const failure = el("p", { class: "failure", role: "alert", hidden: true });
  const element = el("div", {}, el("div", { class: "view-head" }, el("h1", { text: "Tune" })), failure, shown);

  async function look() {
    try {
      const balance = await app.get("debug/balance");
      failure.hidden = true;
      shown.replaceChildren(
        verdict(balance),
        el("div", { class: "columns" }, waiting(balance), loads(balance)),
        plan(),
      );
    } catch (error) {
      if (error.status === 401) return;
      setText(failure, `No verdict from the server: ${error.message}`);
      failure.hidden = false;
    }
  }

  return {
    element,
    shown() {
      stop?.();
      stop = app.repeat(LOOK_S, look);
    },
    hidden() {
      stop?.();
      stop = null;
    },
  };
}

function verdict(balance) {
  const ratio = balance.num_prefill
    ? `${balance.num_prefill} : ${balance.num_decode}`
    : `unified, ${balance.num_decode}`;
  const advice = balance.advice.map((text) => el("li", { text: `${text}.` }));
  return el(
    "section",
    { class: "card verdict-card", "data-verdict": balance.verdict },
    el(
      "div",
      { class: "ratio" },
      el("span", { class: "small muted", text: balance.num_prefill ? "Prefill : decode" : "Decode workers" }),
      el("strong", { text: ratio }),
    ),
    el(
      "div",
      {},
      el("h2", { text: TITLES[balance.verdict] || balance.verdict }),
      el("p", { text: balance.why }),
      advice.length ? el("ul", {}, ...advice) : null,
      el("p", {
        class: "small muted",
        text: `From ${count(balance.num_requests)} requests of the last ${span(balance.over_s)}.`,
      }),
    ),
  );
}

function waiting(balance) {
  const title = "What requests waited for";
  if (balance.ttft_ms === null)
    return card(title, "", empty("No first token lately", "Send some requests; this follows within seconds."));
  const parts = [
    ["for prefill", balance.for_prefill_ms, "s-prefill_queue"],
    ["for decode", balance.for_decode_ms, "s-grant"],
  ];
  const whole = Math.max(balance.ttft_ms, balance.for_prefill_ms + balance.for_decode_ms);
  const rows = [...parts, ["time to first token", balance.ttft_ms, "s-prefill_compute"]].map(([name, value, kind]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", text: name }),
      el("td", { class: "num", text: ms(value) }),
      el(
        "td",
        { class: "falls" },
        el("span", { class: `fall ${kind}`, style: { left: "0", width: `${(100 * value) / (whole || 1)}%` } }),
      ),
    ),
  );
  return card(
    title,
    "Means per request. For decode: for room there, for a prompt that it computes itself, for the step that joins it.",
    el("table", { class: "waterfall" }, el("tbody", {}, ...rows)),
  );
}

function loads(balance) {
  const title = "With one more worker";
  if (!balance.loads.length) return card(title, "", empty("No worker takes requests", "Their states are under Live."));
  const told = (load, value) =>
    load.unit === "share" ? percent(value) : value >= 100 ? count(value) : value >= 10 ? rate(value) : value.toFixed(2);
  const rows = balance.loads.map((load) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, el("span", { class: "small muted", text: `${load.role} ` }), load.what),
      el("td", { class: "num", text: told(load, load.now) }),
      el("td", { class: "num", text: told(load, load.with_one_more) }),
    ),
  );
  const head = el(
    "tr",
    {},
    el("th", { scope: "col", text: "Load" }),
    el("th", { scope: "col", class: "num", text: "Now" }),
    el("th", { scope: "col", class: "num", text: "With one more" }),
  );
  return card(
    title,
    "What there is, shared by one more of that role: arithmetic, no forecast. Faster answers bring more requests.",
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))),
  );
}

const plan = () =>
  card(
    "A ratio to change to",
    "",
    el("p", {
      class: "muted small",
      text: "Advice on a ratio needs a model of what this machine can do, which this version does not have: it says which side binds, and no more.",
    }),
  );
