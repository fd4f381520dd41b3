// The last minute in numbers, one tile each.

import { count, el, ms, percent, rate, setText, words } from "./dom.js";
import { FAULTS } from "./facts.js";

export class Tiles {
  constructor() {
    const names = [
      "Under way",
      "Answers",
      "Tokens out",
      "Prompt tokens",
      "First token, mean",
      "First token, p95",
      "Without an answer",
    ];
    this.values = names.map(() => el("strong", { text: "–" }));
    this.notes = names.map(() => el("span", { class: "small muted" }));
    this.element = el(
      "div",
      { class: "tiles" },
      ...names.map((name, index) =>
        el(
          "div",
          { class: "tile" },
          el("span", { class: "small muted", text: name }),
          this.values[index],
          this.notes[index],
        ),
      ),
    );
  }

  draw(status) {
    const { last_minute: minute } = status;
    const failed = Object.entries(minute.num_failed).sort((a, b) => b[1] - a[1]);
    const number = failed.reduce((sum, [, value]) => sum + value, 0);
    const told = [
      [count(status.in_flight), `${count(status.queued_requests)} wait for a worker`],
      [`${rate(minute.answers_per_s)}/s`, `${count(minute.num_answered)} in ${count(minute.over_s)} s`],
      [`${rate(minute.output_tokens_per_s)}/s`, ""],
      [
        `${rate(minute.prompt_tokens_per_s)}/s`,
        minute.prompt_tokens ? `${percent(minute.cached_share)} cached` : "",
      ],
      [ms(minute.ttft_mean_ms), minute.ttft_p50_ms === null ? "" : `p50 ${ms(minute.ttft_p50_ms)}`],
      [ms(minute.ttft_p95_ms), minute.ttft_max_ms === null ? "" : `max ${ms(minute.ttft_max_ms)}`],
      [count(number), failed.map(([reason, value]) => `${words(reason)} ${value}`).join(", ") || `in ${count(minute.over_s)} s`],
    ];
    told.forEach(([value, note], index) => {
      setText(this.values[index], value);
      setText(this.notes[index], note);
    });
    this.values.at(-1).dataset.kind = failed.some(([reason]) => FAULTS.includes(reason)) ? "bad" : "";
  }
}
