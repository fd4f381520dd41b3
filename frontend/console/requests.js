// Requests: the slowest, those that failed and the latest of which the server keeps a record, and one of them in full.

import { choice, count, el, empty, largest, ms, percent, setText, span, words } from "./dom.js";
import { remedy, splitBar, waterfall } from "./waterfall.js";

const LIST_S = 5;
const MOST = 50;
const SLOW_CLIENT = 0.05; // share of a request's time, from which on it is told
const LISTS = [
  ["slowest", "Slowest"],
  ["failed", "Failed"],
  ["recent", "Latest"],
];
const NONE = {
  slowest: ["No request has had a first token yet", "The slowest of the last ten to twenty minutes will stand here."],
  failed: [
    "None has failed",
    "What ends without an answer, and what was cancelled before its first token, will stand here.",
  ],
  recent: ["No request has ended yet", "Send one from Chat. A request that is under way has no record."],
};

export function requestsView(app) {
  let list = "slowest";
  let chosen = ""; // id
  let record = null;
  let stop = null;

  const rows = el("div", { class: "scroll" });
  const detail = el("section", { class: "card detail", "aria-label": "Request", tabindex: -1, hidden: true });
  const failure = el("p", { class: "failure", role: "alert", hidden: true });
  const picker = el("div");
  const find = el("input", {
    id: "find",
    type: "search",
    placeholder: "chatcmpl-… or req-…",
    autocomplete: "off",
    spellcheck: "false",
  });
  const form = el(
    "form",
    { class: "row", role: "search" },
    el("label", { for: "find", class: "small muted", text: "By id" }),
    find,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const id = find.value.trim();
    if (id) location.hash = address(list, id);
  });
  const layout = el(
    "div",
    { class: "split-view" },
    el("section", { class: "card list", "aria-label": "Requests" }, rows),
    detail,
  );
  const element = el(
    "div",
    {},
    el("div", { class: "view-head" }, el("h1", { text: "Requests" }), picker, el("span", { class: "spacer" }), form),
    failure,
    layout,
  );

  async function look() {
    try {
      const told = await app.get(`debug/requests?list=${list}&limit=${MOST}`);
      failure.hidden = true;
      if (told.list === list) draw(told.requests);
    } catch (error) {
      if (error.status === 401) return;
      setText(failure, `No requests from the server: ${error.message}`);
      failure.hidden = false;
    }
  }

  function draw(requests) {
    const focused = document.activeElement?.closest?.("tr")?.dataset.id;
    if (!requests.length) rows.replaceChildren(empty(...NONE[list]));
    else rows.replaceChildren(table(requests));
    if (focused) rows.querySelector(`tr[data-id="${CSS.escape(focused)}"] a`)?.focus({ preventScroll: true });
  }

  function table(requests) {
    const now = app.status?.at_s ?? Date.now() / 1000;
    const most = Math.max(...requests.map((each) => each.ttft_ms ?? each.e2e_ms));
    const head = [
      ["Request"],
      ["Ago", "num"],
      ["Outcome"],
      ["First token", "num"],
      ["Where", "wide"],
      ["Prompt", "num minor"],
      ["Answer", "num minor"],
    ];
    return el(
      "table",
      { class: "requests" },
      el("thead", {}, el("tr", {}, ...head.map(([text, kind]) => el("th", { scope: "col", class: kind, text })))),
      el("tbody", {}, ...requests.map((each) => row(each, now, most))),
    );
  }

  function row(each, now, most) {
    const [name, value] = largest(each.ttft_segments);
    const whole = each.ttft_ms ?? each.e2e_ms;
    const bar = splitBar(each.ttft_segments, whole);
    bar.style.width = `${Math.max((100 * whole) / (most || 1), 2)}%`;
    const link = el("a", {
      class: "mono",
      href: address(list, each.request_id),
      title: each.request_id,
      text: `…${each.request_id.slice(-10)}`,
    });
    return el(
      "tr",
      {
        "data-id": each.request_id,
        "aria-current": each.request_id === record?.request_id ? "true" : null,
        on: { click: (event) => event.target === link || link.click() },
      },
      el("th", { scope: "row" }, link),
      el("td", { class: "num", text: span(now - each.arrived_s) }),
      el("td", { class: each.failed ? "bad" : "", text: words(each.outcome) }),
      el("td", { class: "num", text: ms(each.ttft_ms) }),
      el(
        "td",
        { class: "wide" },
        bar,
        el("span", { class: "small muted", text: name ? `${name} ${percent(value / (whole || 1))}` : "" }),
      ),
      el("td", { class: "num minor", text: count(each.prompt_tokens) }),
      el("td", { class: "num minor", text: count(each.output_tokens) }),
    );
  }

  async function open(id) {
    chosen = id;
    detail.hidden = !id;
    layout.classList.toggle("with-detail", Boolean(id));
    if (!id || record?.request_id === id) return;
    record = null;
    detail.replaceChildren(el("p", { class: "muted", text: "reading…" }));
    try {
      const found = await app.get(`debug/requests/${encodeURIComponent(id)}`);
      if (chosen !== id) return;
      record = found;
      detail.replaceChildren(...described(found, list, app.status?.trace_ui || ""));
    } catch (error) {
      if (chosen !== id) return;
      const [title, text] =
        error.status === 404 ? ["No record is kept of it", `${error.message}.`] : ["It cannot be read", error.message];
      detail.replaceChildren(closing(list), empty(title, text));
    }
    for (const each of rows.querySelectorAll("tr[data-id]")) mark(each, each.dataset.id === record?.request_id);
    detail.focus({ preventScroll: true });
    if (matchMedia("(max-width: 70rem)").matches) detail.scrollIntoView({ block: "start" });
  }

  return {
    element,
    shown(path) {
      const name = NONE[path[0]] ? path[0] : "slowest";
      if (name !== list || !picker.firstChild) {
        list = name;
        picker.replaceChildren(choice("List", LISTS, list, (next) => (location.hash = address(next, chosen))));
        rows.replaceChildren(el("p", { class: "muted", text: "reading…" }));
      }
      stop?.();
      stop = app.repeat(LIST_S, look);
      open(path[1] || "");
    },
    hidden() {
      stop?.();
      stop = null;
    },
  };
}

const address = (list, id) => `#requests/${list}${id ? `/${encodeURIComponent(id)}` : ""}`;
const mark = (row, is) => (is ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
const closing = (list) => el("a", { class: "close", href: address(list, ""), "aria-label": "Close", text: "×" });

// -- one of them ------------------------------------------------------------------------------------------------------

function described(record, list, traceUi) {
  const [name, value] = largest(record.ttft_segments);
  const [, after] = largest(record.second_token_segments);
  const what = record.ttft_ms === null ? "time until it ended" : "time to first token";
  const cold = name === "prefill_compute" && record.ttft_ms !== null && !record.cached_tokens;
  return [
    closing(list),
    el("h2", { class: "mono", text: record.request_id }),
    el(
      "p",
      { class: record.failed ? "bad" : "" },
      el("span", { class: "small muted", text: "Outcome " }),
      el("strong", { text: words(record.outcome) }),
      record.error ? ` ${record.error}` : "",
    ),
    verdict(what, record.ttft_segments, record.ttft_ms ?? record.e2e_ms, cold),
    after > value ? verdict("time to second token", record.second_token_segments, record.second_token_ms) : null,
    waterfall(record),
    rest(record),
    facts(record, traceUi),
    el("h3", { text: record.num_attempts === 1 ? "Attempt" : `${record.num_attempts} attempts` }),
    ...(record.attempts.length
      ? record.attempts.map((attempt) => tried(attempt))
      : [el("p", { class: "muted", text: "No worker had taken it." })]),
    record.num_attempts > record.attempts.length && record.attempts.length
      ? el("p", { class: "muted small", text: "Only the first and the latest are kept." })
      : null,
  ].filter(Boolean);
}

// The largest segment, and what to do about it.
function verdict(what, segments, whole, cold = false) {
  const [name, value] = largest(segments);
  if (!name) return null;
  return el(
    "p",
    { class: "verdict" },
    el("span", { class: `swatch s-${name}` }),
    el("strong", { text: `${percent(value / (whole || 1))} of the ${what} was ${name}.` }),
    ` Where that is much: ${remedy(name) || "–"}.`,
    cold ? " None of the prompt was in the prefix cache." : "",
  );
}

function rest(record) {
  if (record.ttft_ms === null || record.second_token_ms === null || record.output_tokens < 3) return null;
  const number = record.output_tokens - 2;
  const restMs = record.e2e_ms - record.ttft_ms - record.second_token_ms;
  const slow = record.client_ms > SLOW_CLIENT * record.e2e_ms;
  const share = percent(record.client_ms / (record.e2e_ms || 1));
  return el("p", {
    class: "small muted",
    text:
      `${count(number)} more tokens in ${ms(restMs)}, ${ms(restMs / number)} each.` +
      (slow ? ` Tokens waited ${ms(record.client_ms)} for the client to read, ${share} of it all.` : ""),
  });
}

function facts(record, traceUi) {
  const cached = record.cached_tokens ? ` (${count(record.cached_tokens)} cached)` : "";
  const rows = [
    ["Arrived", new Date(1000 * record.arrived_s).toLocaleString("en-GB", { timeZoneName: "short" })],
    ["Asked", `${words(record.operation)}, ${record.model}`],
    ["Tokens", `${count(record.prompt_tokens)} of the prompt${cached}, ${count(record.output_tokens)} of the answer`],
    ["Whole time", ms(record.e2e_ms)],
    record.clock_within_ms !== null ? ["Workers' clocks", `known ± ${ms(record.clock_within_ms)}`] : null,
    record.key ? ["Key", record.key] : null,
    record.trace_id ? ["Trace", trace(record, traceUi)] : null,
  ].filter(Boolean);
  return el(
    "dl",
    { class: "facts" },
    ...rows.flatMap(([label, value]) => [el("dt", { text: label }), el("dd", {}, value)]),
  );
}

function trace({ trace_id: id, traced }, ui) {
  if (!traced) return el("span", { class: "mono muted", text: `${id} (not exported)` });
  if (!/^https?:\/\//.test(ui)) return el("span", { class: "mono", text: id });
  return el("a", { class: "mono", href: `${ui}/trace/${id}`, target: "_blank", rel: "noopener noreferrer", text: id });
}

function tried({ number, at_ms, decision, failed }) {
  const way = decision
    ? decision.prefill
      ? `${decision.prefill} → ${decision.decode}`
      : `local on ${decision.decode}`
    : "no worker had taken it";
  const box = el(
    "div",
    { class: "attempt" },
    el("p", {}, el("span", { class: "muted", text: `${number} · at ${ms(at_ms)} ` }), el("strong", { text: way })),
  );
  if (decision) {
    const words = [`${decision.choice}: ${decision.why}`];
    if (decision.cached_tokens) words.push(`${count(decision.cached_tokens)} tokens of the prompt were in its cache`);
    for (const name of ["local", "remote"]) {
      const predicted = decision[`${name}_ms`];
      const loss = decision[`${name}_loss_ms`];
      if (predicted !== null)
        words.push(
          `${name} was predicted to take ${ms(predicted)}${loss >= 0.1 ? `, and ${ms(loss)} of others' streams` : ""}`,
        );
    }
    box.append(el("p", { class: "small muted", text: `${words.join("; ")}.` }));
  }
  if (failed) box.append(el("p", { class: "bad small", text: `failed: ${failed}` }));
  return box;
}
