"""Where the buckets of histograms end. Those of requests and tokens are vLLM's, so that panels of both line up."""

from collections.abc import Sequence

from frontend.gaps import EDGES

# fmt: off
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)
E2E_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)
TPOT_BUCKETS = EDGES
SEGMENT_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)
ROUTE_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
"""Of what came against what was predicted."""
VLLM_ITL_BUCKETS = tuple(edge for edge in EDGES if edge >= 0.01)
TOKEN_BUCKETS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5)) + (1e6,)
# fmt: on


def cumulative(edges: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """As Prometheus has them: how many values were at most each edge. `counts` may have fewer, the last of them may be
    of what is beyond every edge."""
    told, total = [], 0
    for position, edge in enumerate(edges):
        total += counts[position] if position < len(counts) else 0
        told.append((repr(float(edge)), float(total)))
    return [*told, ("+Inf", float(sum(counts)))]
