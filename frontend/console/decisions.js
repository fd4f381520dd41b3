// What the router decided lately, and by what.

import { el, empty, ms, span } from "./dom.js";

export function decisionTable(status) {
  if (!status.decisions.length) return empty("None yet", "The router decides when a request comes.");
  const rows = status.decisions.slice(0, 6).map((latest) => {
    const { decision } = latest;
    const predicted = (name, value, loss) =>
      el("td", {
        class: `num ${name === decision.choice ? "chosen" : ""}`,
        text: value === null ? "–" : `${ms(value)}${loss >= 0.1 ? ` +${ms(loss)}` : ""}`,
      });
    return el(
      "tr",
      {},
      el("td", { class: "num", text: span(status.at_s - latest.at_s) }),
      el("td", { class: "fit", text: `${decision.prefill || "local"} → ${decision.decode}` }),
      predicted("local", decision.local_ms, decision.local_loss_ms),
      predicted("remote", decision.remote_ms, decision.remote_loss_ms),
      el("td", { text: decision.why }),
    );
  });
  const head = ["Ago", "Way", "Local", "Remote", "Why"].map((text, index) =>
    el("th", { scope: "col", class: [0, 2, 3].includes(index) ? "num" : "", text }),
  );
  return el(
    "div",
    { class: "scroll" },
    el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)),
  );
}
