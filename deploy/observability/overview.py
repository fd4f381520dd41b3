"""The first dashboard: are promises kept, where does the time go, what waits, what is full."""

from deploy.observability.panels import Choice, Dashboard, Lines, Number, Query, Row
from deploy.observability.promql import (
    faults,
    mean,
    or_zero,
    per_request,
    pool_used,
    quantile,
    rate,
    ready,
    tpot_kept,
    ttft_kept,
)

RED_BELOW_ONE = ((None, "red"), (1, "green"))
RED_ABOVE_ZERO = ((None, "green"), (1, "red"))
KEPT = ((None, "red"), (0.95, "orange"), (0.99, "green"))

TTFT_LIMITS = Choice("ttft_slo", "TTFT limit, s", ("0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0"), "1.0")
TPOT_LIMITS = Choice("tpot_slo", "TPOT limit, s", ("0.025", "0.05", "0.1", "0.2", "0.5"), "0.1")
"""Edges of the histograms' buckets, as they are written there."""


def quantiles(histogram: str) -> list[Query]:
    return [Query(quantile(share, histogram), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)]


def overview() -> Dashboard:
    kept = [Query(ttft_kept("$ttft_slo"), "TTFT"), Query(tpot_kept("$tpot_slo"), "TPOT")]
    return Dashboard(
        uid="tandem-overview",
        title="Tandem: overview",
        variables=(TTFT_LIMITS, TPOT_LIMITS),
        rows=(
            Row(
                "Now",
                (
                    Number(title="TTFT within the limit", queries=kept[:1], unit="percentunit", steps=KEPT),
                    Number(title="TPOT within the limit", queries=kept[1:], unit="percentunit", steps=KEPT),
                    Number(title="Prefill workers ready", queries=[Query(ready("prefill"))]),
                    Number(title="Decode workers ready", queries=[Query(ready("decode"))], steps=RED_BELOW_ONE),
                    Number(title="Requests under way", queries=[Query("sum(tandem_requests_in_flight)")]),
                    Number(
                        title="KV blocks leaked",
                        queries=[Query("sum(tandem_kv_blocks_leaked)")],
                        steps=RED_ABOVE_ZERO,
                        text="Blocks that nobody owns and nobody can take. Anything but 0 is a bug of Tandem's.",
                    ),
                ),
            ),
            Row(
                "Are promises kept?",
                (
                    Lines(
                        title="Share of requests within the limits",
                        text="Of TTFT: of all requests but those that failed by their caller's doing.",
                        queries=kept,
                        unit="percentunit",
                        share=True,
                    ),
                    Lines(
                        title="Requests by how they ended",
                        queries=[Query(rate("tandem_requests_total", by="outcome"), "{{outcome}}")],
                        unit="reqps",
                        stacked=True,
                    ),
                    Lines(
                        title="TTFT",
                        text="Dots are single requests: one leads to its trace.",
                        queries=quantiles("tandem_ttft_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                    Lines(
                        title="Time per output token (TPOT)",
                        text="Of each answer, its mean.",
                        queries=quantiles("tandem_time_per_output_token_seconds"),
                        unit="s",
                        exemplars=True,
                    ),
                    Lines(
                        title="Between two tokens (ITL)",
                        text="Of all tokens after the first of all answers.",
                        queries=quantiles("tandem_inter_token_seconds"),
                        unit="s",
                    ),
                    Lines(
                        title="Refusals by the limit that was met",
                        text="key_…: what a client's own key may ask in a minute; the others are the server's.",
                        queries=[Query(or_zero(rate("tandem_refusals_total", by="limit")), "{{limit}}")],
                        unit="reqps",
                        stacked=True,
                    ),
                ),
            ),
            Row(
                "Where does the time go?",
                (
                    Lines(
                        title="TTFT by segment, mean",
                        text="Their sum is the mean TTFT. What to do about each: docs/operations.md.",
                        queries=[Query(per_request("ttft"), "{{segment}}")],
                        unit="s",
                        stacked=True,
                        height=10,
                    ),
                    Lines(
                        title="From the first token to the second, by segment, mean",
                        queries=[Query(per_request("second_token"), "{{segment}}")],
                        unit="s",
                        stacked=True,
                        height=10,
                    ),
                ),
            ),
            Row(
                "What waits, and what is full?",
                (
                    Lines(
                        title="Queues",
                        queries=[
                            Query("sum(tandem_queued_requests)", "for a worker"),
                            Query("sum by (role) (tandem_worker_queued)", "on {{role}}"),
                            Query("sum(tandem_max_queued_requests)", "most that may wait for a worker"),
                        ],
                    ),
                    Lines(
                        title="Sequences in batches",
                        queries=[Query("sum by (role) (tandem_worker_running)", "{{role}}")],
                    ),
                    Lines(
                        title="KV pools in use",
                        text="Without what only the prefix cache holds, which can be taken.",
                        queries=[Query(pool_used(), "{{role}}")],
                        unit="percentunit",
                        share=True,
                    ),
                    Lines(
                        title="Preemptions, retries and refusals",
                        text="Refusals: requests that ended without an answer, not by their caller's doing.",
                        queries=[
                            Query(rate("tandem_preemptions_total"), "preemptions"),
                            Query(rate("tandem_retries_total"), "retries"),
                            Query(faults(), "refusals and failures"),
                        ],
                        unit="ops",
                    ),
                ),
            ),
            Row(
                "What is asked for?",
                (
                    Lines(
                        title="Tokens",
                        queries=[
                            Query(rate("tandem_prompt_tokens_total"), "of prompts"),
                            Query(rate("tandem_cached_tokens_total"), "of those, from the prefix cache"),
                            Query(rate("tandem_completion_tokens_total"), "of answers"),
                        ],
                    ),
                    Lines(
                        title="Tokens that waited for who reads them",
                        text="Mean of each answer: clients, or what is between, that take tokens too slowly.",
                        queries=[Query(mean("tandem_client_wait_seconds"), "of an answer")],
                        unit="s",
                    ),
                    Lines(
                        title="Answers that went on on another decode worker",
                        queries=[Query(rate("tandem_migrations_total"), "migrations")],
                        unit="ops",
                    ),
                    Lines(
                        title="Whole requests, mean",
                        queries=[Query(mean("tandem_request_seconds"), "arrival to last token")],
                        unit="s",
                    ),
                ),
            ),
        ),
    )
