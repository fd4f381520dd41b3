"""Which side binds, prefill or decode, and what one more worker of either would relieve."""

from deploy.observability.panels import Dashboard, Lines, Number, Query, Row, Words
from deploy.observability.promql import mean, per_request, pool_used, quantile, rate, ready

TTFT_SEGMENT, SECOND_SEGMENT = "tandem_ttft_segment_seconds_sum", "tandem_second_token_segment_seconds_sum"
DECODE_QUEUE = 'segment="decode_queue"'
FOR_PREFILL = rate(TTFT_SEGMENT, where='segment="prefill_queue"')
FOR_ROOM = rate(TTFT_SEGMENT, where='segment="grant"')
FOR_DECODE = f"({FOR_ROOM} + {rate(SECOND_SEGMENT, where=DECODE_QUEUE)})"
REQUESTS = rate("tandem_ttft_seconds_count")

COMPUTING = rate(TTFT_SEGMENT, where='segment="prefill_compute"')
"""Seconds of prompts computed per second: of all prompts, where a chunk of several counts for each."""

DECODE = '{role="decode"}'
OWNED = f"sum(tandem_worker_kv_blocks{DECODE}) - sum(tandem_worker_kv_blocks_free{DECODE})"
POOLS = f"sum(tandem_worker_kv_blocks{DECODE})"
WITH_ONE_MORE = f"(1 + 1 / {ready('decode')})"

HOW_TO_READ = """\
A request waits for **prefill** between a decode worker's promise and its first chunk (`prefill_queue`), and for
**decode** until it has room there (`grant`) and until the step that joins it (`decode_queue`).

- *Waiting for prefill* near 100 %, and waiting is much of the TTFT: **prefill binds**. One more prefill worker, or
  fewer decode workers.
- Near 0 %, and waiting is much: **decode binds**. One more decode worker or a larger KV pool, or fewer prefill workers.
- *Waiting per request* is small beside the TTFT: **neither binds**; look at `prefill_compute` (shorter prompts, more
  cores, a smaller model) or at TPOT.

*With one more worker* is what there is now, shared by one more. It is arithmetic, not a forecast: faster answers bring
more requests.
"""


def balance() -> Dashboard:
    return Dashboard(
        uid="tandem-balance",
        title="Tandem: prefill and decode",
        rows=(
            Row(
                "Which side binds?",
                (
                    Words(title="How to read this", content=HOW_TO_READ, width=12, height=9),
                    Number(
                        title="Waiting for prefill",
                        text="Of the time that requests wait for either side; the rest is for decode.",
                        queries=[Query(f"{FOR_PREFILL} / ({FOR_PREFILL} + {FOR_DECODE})")],
                        unit="percentunit",
                        height=9,
                    ),
                    Number(
                        title="Waiting per request",
                        queries=[Query(f"({FOR_PREFILL} + {FOR_DECODE}) / {REQUESTS}")],
                        unit="s",
                        height=9,
                    ),
                    Number(
                        title="TTFT, mean", queries=[Query(mean("tandem_ttft_seconds"))], unit="s", width=4, height=9
                    ),
                ),
            ),
            Row(
                "Waiting",
                (
                    Lines(
                        title="For what, per request",
                        queries=[
                            Query(per_request("ttft", where='segment=~"grant|prefill_queue"'), "{{segment}}"),
                            Query(per_request("second_token", where=DECODE_QUEUE), "{{segment}}"),
                        ],
                        unit="s",
                        stacked=True,
                    ),
                    Lines(
                        title="Where, requests",
                        queries=[
                            Query("sum(tandem_queued_requests)", "for a decode worker's room"),
                            Query("sum by (role, worker) (tandem_worker_queued)", "on {{role}} {{worker}}"),
                        ],
                        stacked=True,
                    ),
                ),
            ),
            Row(
                "What one more worker would relieve",
                (
                    Lines(
                        title="Prompts being computed, per prefill worker",
                        text="Seconds of computing a second. Above 1, prompts share steps or wait for each other.",
                        queries=[
                            Query(f"{COMPUTING} / {ready('prefill')}", "now"),
                            Query(f"{COMPUTING} / ({ready('prefill')} + 1)", "with one more worker"),
                        ],
                    ),
                    Lines(
                        title="KV blocks in use, decode",
                        queries=[
                            Query(f"({OWNED}) / {POOLS}", "now"),
                            Query(f"({OWNED}) / ({POOLS} * {WITH_ONE_MORE})", "with one more worker"),
                        ],
                        unit="percentunit",
                        share=True,
                    ),
                    Lines(
                        title="Streams per decode worker",
                        queries=[
                            Query(f"sum(tandem_worker_running{DECODE}) / {ready('decode')}", "now"),
                            Query(
                                f"sum(tandem_worker_running{DECODE}) / ({ready('decode')} + 1)", "with one more worker"
                            ),
                        ],
                    ),
                    Lines(
                        title="Time per output token, p95",
                        text="What a batch of so many streams costs each of them.",
                        queries=[Query(quantile(0.95, "tandem_time_per_output_token_seconds"), "p95")],
                        unit="s",
                    ),
                ),
            ),
            Row(
                "Steps",
                (
                    Lines(
                        title="Step time, p95, by worker",
                        text="Of decode, what a token takes; of prefill, what a chunk does.",
                        queries=[
                            Query(
                                quantile(0.95, "tandem_worker_step_seconds", by="role, worker"), "{{role}} {{worker}}"
                            )
                        ],
                        unit="s",
                    ),
                    Lines(
                        title="Sequences of a step, mean, by worker",
                        queries=[
                            Query(mean("tandem_worker_step_sequences", by="role, worker"), "{{role}} {{worker}}"),
                        ],
                    ),
                    Lines(
                        title="Tokens of a step, mean, by worker",
                        text="Of decode, more than its sequences where prompts are computed there.",
                        queries=[Query(mean("tandem_worker_step_tokens", by="role, worker"), "{{role}} {{worker}}")],
                    ),
                    Lines(
                        title="Prompt tokens that wait to be computed, by worker",
                        queries=[
                            Query("sum by (role, worker) (tandem_worker_waiting_prompt_tokens)", "{{role}} {{worker}}"),
                            Query("sum(tandem_queued_prompt_tokens)", "for a worker"),
                        ],
                        stacked=True,
                    ),
                ),
            ),
            Row(
                "Who does what",
                (
                    Lines(
                        title="Where prompts are prefilled",
                        text="local: by the decode worker, where that was expected to be as fast.",
                        queries=[Query(rate("tandem_router_decisions_total", by="choice"), "{{choice}}")],
                        unit="reqps",
                        stacked=True,
                    ),
                    Lines(
                        title="What decisions of the router turned out to cost",
                        text="Seconds a second that the other way would have spared, had it kept its promise.",
                        queries=[Query(rate("tandem_router_regret_seconds_sum", by="choice"), "{{choice}}")],
                        unit="s",
                        stacked=True,
                    ),
                    Lines(
                        title="First tokens against the router's prediction",
                        text="Mean; 1 is as predicted, 2 took twice as long.",
                        queries=[Query(mean("tandem_router_prediction_ratio"), "actual / predicted")],
                    ),
                    Lines(
                        title="Workers ready",
                        queries=[Query("sum by (role) (tandem_worker_ready)", "{{role}}")],
                    ),
                    Lines(
                        title="Sequences in batches, by worker",
                        queries=[Query("sum by (role, worker) (tandem_worker_running)", "{{role}} {{worker}}")],
                        stacked=True,
                    ),
                    Lines(
                        title="KV pools in use, by worker",
                        queries=[Query(pool_used("role, worker"), "{{role}} {{worker}}")],
                        unit="percentunit",
                        share=True,
                    ),
                    Lines(
                        title="Prompt tokens computed",
                        queries=[
                            Query(
                                f"{rate('tandem_prompt_tokens_total')} - {rate('tandem_cached_tokens_total')}",
                                "without what the prefix cache had",
                            )
                        ],
                    ),
                    Lines(
                        title="Prefix cache: share of prompt tokens that it had",
                        queries=[
                            Query(
                                f"{rate('tandem_cached_tokens_total')} / {rate('tandem_prompt_tokens_total')}", "hits"
                            )
                        ],
                        unit="percentunit",
                        share=True,
                    ),
                ),
            ),
        ),
    )
