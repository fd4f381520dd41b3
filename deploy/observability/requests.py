"""Single requests: which are slow or fail, and one of them as a trace over all processes."""

from deploy.observability.panels import Dashboard, FoundTraces, Heatmap, Lines, OneTrace, Query, Row, Typed
from deploy.observability.promql import AUTO, rate

UID = "tandem-requests"


def counts(histogram: str) -> list[Query]:
    return [Query(f"sum by (le) (increase({histogram}_bucket[{AUTO}]))", "{{le}}")]


def requests() -> Dashboard:
    return Dashboard(
        uid=UID,
        title="Tandem: single requests",
        variables=(Typed("slow", "Slow is longer than", "1s"), Typed("trace", "Trace id")),
        rows=(
            Row(
                "How they are spread",
                (
                    Heatmap(title="TTFT", queries=counts("tandem_ttft_seconds"), unit="s"),
                    Heatmap(title="Arrival to last token", queries=counts("tandem_request_seconds"), unit="s"),
                    Lines(
                        title="Requests that had no answer, by reason",
                        queries=[
                            Query(rate("tandem_requests_total", by="outcome", where='outcome!="ok"'), "{{outcome}}")
                        ],
                        unit="reqps",
                        stacked=True,
                        width=24,
                        height=6,
                    ),
                ),
            ),
            Row(
                "Which (a click on a trace's id shows it below)",
                (
                    FoundTraces(
                        title="Slow ones", service="tandem-frontend", min_duration="$slow", target=UID, height=10
                    ),
                    FoundTraces(
                        title="Failed ones", service="tandem-frontend", tags="error=true", target=UID, height=10
                    ),
                ),
            ),
            Row(
                "One of them: its ledger is on the first span, as tandem.ttft.*_ms",
                (OneTrace(title="", variable="trace"),),
            ),
        ),
    )
