"""KV on its way from prefill to decode: what each link carries, whether it fails, and which transfers were slow."""

from deploy.observability.panels import Dashboard, FoundTraces, Lines, Query, Row
from deploy.observability.promql import or_zero, per_request, quantile, rate

TAIL = 'segment="transfer_tail"'
PARTS = "tandem_second_token_segment_seconds"
LINK = "prefill, decode, transport"
EACH_LINK = "{{prefill}} → {{decode}} {{transport}}"


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
                        title="Transfers, by link",
                        text="Of a whole prompt's KV, that were taken.",
                        queries=[Query(rate("tandem_link_transfers_total", by=LINK), EACH_LINK)],
                        unit="ops",
                        stacked=True,
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
                "What each link carries",
                (
                    Lines(
                        title="KV sent, by link",
                        queries=[Query(rate("tandem_link_bytes_total", by=LINK), EACH_LINK)],
                        unit="Bps",
                        stacked=True,
                    ),
                    Lines(
                        title="Speed while busy, by link",
                        text="Of what was sent lately. Beside what is sent it says how much more the link could carry.",
                        queries=[Query(f"max by ({LINK}) (tandem_link_bytes_per_second)", EACH_LINK)],
                        unit="Bps",
                    ),
                    Lines(
                        title="Transfers that are sending, by link",
                        queries=[Query(f"sum by ({LINK}) (tandem_link_in_flight)", EACH_LINK)],
                        stacked=True,
                    ),
                    Lines(
                        title="KV that these have to send, by link",
                        queries=[Query(f"sum by ({LINK}) (tandem_link_in_flight_bytes)", EACH_LINK)],
                        unit="bytes",
                        stacked=True,
                    ),
                ),
            ),
            Row(
                "Does it fail?",
                (
                    Lines(
                        title="Failed transfers, by link and reason",
                        text="unreachable: the transport did not get there, and another one was taken.",
                        queries=[
                            Query(
                                or_zero(rate("tandem_link_failures_total", by=f"{LINK}, reason")),
                                f"{EACH_LINK} {{{{reason}}}}",
                            )
                        ],
                        unit="ops",
                    ),
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
