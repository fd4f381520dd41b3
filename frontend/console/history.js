// Arithmetic on the server's history: periods added up to longer ones, and shares of requests within a limit.

const SUMS = [
  "num_answered",
  "num_faults",
  "num_second",
  "num_paced",
  "ttft_ms",
  "second_token_ms",
  "prompt_tokens",
  "cached_tokens",
  "output_tokens",
];
const LEDGERS = ["ttft_segments", "second_token_segments"];
const WITHIN = ["ttft_within", "tpot_within"];

export function added(periods) {
  const sum = Object.fromEntries([
    ...SUMS.map((name) => [name, 0]),
    ...LEDGERS.map((name) => [name, {}]),
    ...WITHIN.map((name) => [name, []]),
  ]);
  for (const period of periods) {
    for (const name of SUMS) sum[name] += period[name];
    for (const name of LEDGERS)
      for (const [segment, value] of Object.entries(period[name]))
        sum[name][segment] = (sum[name][segment] || 0) + value;
    for (const name of WITHIN)
      period[name].forEach((value, index) => (sum[name][index] = (sum[name][index] || 0) + value));
  }
  return sum;
}

// Of the last `seconds`, in groups of `each` seconds: [{ at, sum }], oldest first, without empty ones.
export function grouped(history, seconds, each) {
  const to = Math.ceil(history.at_s / each) * each;
  const groups = new Map();
  for (const period of history.periods) {
    if (period.at_s < to - seconds) continue;
    const at = Math.floor(period.at_s / each) * each;
    if (!groups.has(at)) groups.set(at, []);
    groups.get(at).push(period);
  }
  return { from: to - seconds, to, groups: [...groups].map(([at, periods]) => ({ at, sum: added(periods) })) };
}

// Shares of requests that kept a limit, null where there were none. Who got no answer by the server's doing had no
// first token in time.
export function ttftKept(sum, index) {
  const all = sum.num_answered + sum.num_faults;
  return all ? (sum.ttft_within[index] || 0) / all : null;
}

export function tpotKept(sum, index) {
  return sum.num_paced ? (sum.tpot_within[index] || 0) / sum.num_paced : null;
}
