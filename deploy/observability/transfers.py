"""KV on its way from prefill to decode, as far as the frontend and the spans of transfers tell."""

from deploy.observability.panels import Dashboard, FoundTraces, Lines, Query, Row
from deploy.observability.promql import per_request, quantile, rate

TAIL = 'segment="transfer_tail"'
PARTS = "tandem_second_token_segment_seconds"


def transfers() -> Dashboard:
    return Dashboard(
        uid="tandem-transfers",
        title="Tandem: transfers of KV",
        rows=(
            Row(
                "Does KV arrive in time?",
                (
                    Lines(
                        title="From the first token to the whole KV on decode",
                        text="What computing did not hide of the transfer. Only the second token waits for it.",
                        queries=[
                            Query(quantile(share, PARTS, where=TAIL), f"p{share * 100:g}")
                            for share in (0.5, 0.95, 0.99)
                        ],
                        unit="s",
                    ),
                    Lines(
                        title="The second token's time, by segment, mean",
                        queries=[Query(per_request("second_token"), "{{segment}}")],
                        unit="s",
                        stacked=True,
                    ),
                    Lines(
                        title="Transfers",
                        text="Prompts that went to a prefill worker; each has its KV moved.",
                        queries=[Query(rate("tandem_router_decisions_total", where='choice="remote"'), "begun")],
                        unit="ops",
                    ),
                    Lines(
                        title="KV blocks promised to transfers, by worker",
                        queries=[
                            Query('sum by (worker) (tandem_worker_kv_blocks_promised{role="decode"})', "{{worker}}")
                        ],
                        stacked=True,
                    ),
                ),
            ),
            Row(
                "Does it fail?",
                (
                    Lines(
                        title="Late writes that were dropped, by worker",
                        text="By senders that were given up. One is harmless; many mean links or workers that stall.",
                        queries=[
                            Query(rate("tandem_worker_fenced_writes_total", by="role, worker"), "{{role}} {{worker}}")
                        ],
                        unit="ops",
                    ),
                    Lines(
                        title="Attempts after the first one",
                        text="Because a worker was lost, or a transfer failed.",
                        queries=[Query(rate("tandem_retries_total"), "retries")],
                        unit="ops",
                    ),
                ),
            ),
            Row(
                "Which ones were slow? (tandem.transfer.size_bytes, num_blocks and transport are on each span)",
                (
                    FoundTraces(
                        title="Latest transfers",
                        service="tandem-prefill",
                        operation="kv.transfer",
                        target="tandem-requests",
                        height=12,
                    ),
                    FoundTraces(
                        title="Latest that took longer than 100 ms",
                        service="tandem-prefill",
                        operation="kv.transfer",
                        min_duration="100ms",
                        target="tandem-requests",
                        height=12,
                    ),
                ),
            ),
        ),
    )
