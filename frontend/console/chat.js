// Chat: a conversation with the model, and under each answer where the time to its first token went.

import { Refused, chat } from "./api.js";
import { button, count, el, empty, ms, rate, setText } from "./dom.js";
import { legend, splitBar } from "./waterfall.js";

const NUMBERS = [
  ["max_tokens", "Most tokens", { min: 1, step: 1, placeholder: "the model's own" }],
  ["temperature", "Temperature", { min: 0, max: 2, step: "any", placeholder: "1" }],
  ["top_p", "Top p", { min: 0, max: 1, step: "any", placeholder: "1" }],
  ["seed", "Seed", { step: 1, placeholder: "a new one each time" }],
];
const NEAR_END = 80; // pixels: who has scrolled further up wants to read

export function chatView(app) {
  const messages = []; // as the API has them
  let asking = null; // the AbortController of the answer that is being made

  const log = el("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 });
  const nothing = empty(
    "Ask something",
    "Answers are streamed, and under each stands where its first token's time went.",
  );
  log.append(nothing);
  const prompt = el("textarea", { id: "prompt", rows: 3, placeholder: "Message", "aria-label": "Message" });
  const send = button("Send", () => submit(), { class: "primary", id: "send" });
  const stop = button("Stop", () => asking?.abort(), { id: "stop", hidden: true });
  const clear = button("New conversation", forget, { class: "quiet" });
  const model = el("select", { id: "model" });
  const system = el("textarea", { id: "system", rows: 3, placeholder: "none" });
  const fields = NUMBERS.map(([name, label, given]) => {
    const input = el("input", { id: name, type: "number", inputmode: "decimal", ...given });
    return el("div", { class: "field" }, el("label", { for: name, text: label }), input);
  });

  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  const element = el(
    "div",
    { class: "chat" },
    el(
      "section",
      { class: "talk card", "aria-label": "Chat" },
      log,
      el(
        "div",
        { class: "composer" },
        prompt,
        el(
          "div",
          { class: "row" },
          el("span", { class: "muted small hint", text: "Enter sends, Shift+Enter is a new line, Esc stops" }),
          clear,
          stop,
          send,
        ),
      ),
    ),
    el(
      "details",
      { class: "card parameters", open: matchMedia("(min-width: 60rem)").matches },
      el("summary", {}, el("h2", { text: "Parameters" })),
      el("div", { class: "field" }, el("label", { for: "model", text: "Model" }), model),
      el("div", { class: "field" }, el("label", { for: "system", text: "System message" }), system),
      ...fields,
      el("p", { class: "small muted", text: "What is left empty is not sent, and the server's default holds." }),
    ),
  );
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape") asking?.abort();
  });
  app.watchers.add((status) => showModels(status.models));
  showModels(app.status?.models || []);

  function showModels(names) {
    send.disabled = !names.length;
    if ([...model.options].map((option) => option.value).join("\n") === names.join("\n")) return;
    const current = model.value;
    model.replaceChildren(
      ...names.map((name) => el("option", { value: name, text: name, selected: name === current })),
    );
  }

  function body() {
    const given = {};
    for (const [name] of NUMBERS) {
      const input = element.querySelector(`#${name}`);
      if (!input.checkValidity()) {
        input.reportValidity();
        return null;
      }
      if (input.value !== "") given[name] = Number(input.value);
    }
    const before = system.value.trim() ? [{ role: "system", content: system.value }] : [];
    return {
      model: model.value,
      ...given,
      messages: [...before, ...messages],
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  async function submit() {
    const text = prompt.value;
    if (!text.trim() || asking || send.disabled) return;
    messages.push({ role: "user", content: text });
    const wanted = body();
    if (!wanted) {
      messages.pop();
      return;
    }
    nothing.remove();
    const asked = said("user", text);
    const answer = answering();
    log.append(asked, answer.element);
    log.scrollTop = log.scrollHeight;
    prompt.value = "";
    await receive(wanted, answer, text, asked);
  }

  async function receive(wanted, answer, text, asked) {
    asking = new AbortController();
    busy(true);
    const began = performance.now();
    try {
      for await (const chunk of chat(wanted, asking.signal))
        keepAtEnd(() => answer.take(chunk, performance.now() - began));
      answer.finish("");
    } catch (error) {
      if (error.name === "AbortError") answer.finish("stopped");
      else fail(error, answer);
    } finally {
      asking = null;
      busy(false);
    }
    if (answer.text()) messages.push({ role: "assistant", content: answer.text() });
    else {
      messages.pop(); // nobody has answered: the question is there to be sent again
      if (!prompt.value) prompt.value = text;
      asked.classList.add("unanswered");
    }
  }

  function fail(error, answer) {
    if (!(error instanceof Refused)) throw error;
    app.refused(error);
    answer.finish("failed");
    answer.refused(error);
  }

  function keepAtEnd(change) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
    change();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  function busy(is) {
    send.hidden = is;
    stop.hidden = !is;
    log.setAttribute("aria-busy", is);
    prompt.focus(); // where Esc is heard, too
  }

  function forget() {
    asking?.abort();
    messages.length = 0;
    log.replaceChildren(nothing);
    prompt.focus();
  }

  return { element, shown: () => prompt.focus({ preventScroll: true }) };
}

function said(role, text) {
  return el(
    "article",
    { class: `said ${role}` },
    el("h3", { text: role === "user" ? "You" : "Model" }),
    el("div", { class: "text", text }),
  );
}

// An answer on its way.
function answering() {
  const text = document.createTextNode("");
  const thoughts = document.createTextNode("");
  const thinking = el(
    "details",
    { class: "thoughts", hidden: true },
    el("summary", { text: "Reasoning" }),
    el("div", { class: "text" }, thoughts),
  );
  const foot = el("div", { class: "timing muted small", text: "waiting for the first token" });
  const element = el(
    "article",
    { class: "said assistant going" },
    el("h3", { text: "Model" }),
    thinking,
    el("div", { class: "text" }, text),
    foot,
  );
  let id = "";
  let firstMs = null;
  let lastMs = null;
  let usage = null;
  let timing = null;
  let reason = "";

  function take(chunk, atMs) {
    id ||= chunk.id;
    const [each] = chunk.choices;
    if (each) {
      const thought = each.delta.reasoning_content || "";
      if (thought) {
        thinking.hidden = false;
        thoughts.appendData(thought);
      }
      text.appendData(each.delta.content || "");
      if (thought || each.delta.content) {
        firstMs ??= atMs;
        lastMs = atMs;
        setText(foot, `first token after ${ms(firstMs)}, as this page saw it`);
      }
      reason = each.finish_reason || reason;
    }
    usage = chunk.usage || usage;
    timing = chunk.timing || timing;
  }

  function finish(why) {
    element.classList.remove("going");
    const end = why || ({ stop: "", length: "cut at the most tokens" }[reason] ?? reason);
    const told = [];
    if (timing) told.push(`first token ${ms(timing.ttft_ms)}`);
    else if (firstMs !== null) told.push(`first token ${ms(firstMs)}, as this page saw it`);
    if (usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens;
      told.push(`${count(usage.prompt_tokens)} prompt tokens${cached ? ` (${count(cached)} cached)` : ""}`);
      told.push(`${count(usage.completion_tokens)} output tokens`);
      if (lastMs > firstMs && usage.completion_tokens > 1)
        told.push(`${rate((1000 * (usage.completion_tokens - 1)) / (lastMs - firstMs))} tokens/s`);
    }
    if (end) told.push(end);
    foot.replaceChildren(el("div", { class: "facts", text: told.join(" · ") }));
    if (timing) {
      foot.append(splitBar(timing.segments, timing.ttft_ms), legend(timing.segments, timing.ttft_ms, 3));
    }
    if (id)
      foot.append(
        el("a", { class: "mono", href: `#requests/recent/${encodeURIComponent(id)}`, text: "Where the time went" }),
      );
  }

  function refused(error) {
    const again = error.retryAfter ? ` Try again in ${ms(1000 * error.retryAfter)}.` : "";
    const where = error.param ? ` (${error.param})` : "";
    foot.before(
      el("p", { class: "failure", role: "alert", text: `${error.message}${where}.${again}`.replace("..", ".") }),
    );
    if (!id && error.requestId)
      foot.append(
        el("a", {
          class: "mono",
          href: `#requests/failed/${encodeURIComponent(error.requestId)}`,
          text: "What became of it",
        }),
      );
  }

  return { element, take, finish, refused, text: () => text.data };
}
