"""How a decision of the router turned out: what it had predicted, and what another choice would have been.

The router takes the way for which `first token + loss of those who stream` is less (`frontend.router`). Afterwards the
first of these is known for the way that was taken; of the other there is still the estimate alone:

    ratio    actual / predicted                              of the way that was taken
    regret   max(0, (actual + its loss) - (other + other's loss))    seconds; `other` by its estimate

`actual` is from the decision to the first token. A regret is what the request and those who stream would have been
spared, all together, had the other way kept what was predicted of it. Of a first attempt only, and only where both ways
were estimated: where there was nothing to choose there is nothing to regret. Pure.
"""

from dataclasses import dataclass

from frontend.router import Placement


@dataclass(frozen=True, slots=True)
class Judged:
    choice: str
    """local or remote."""
    ratio: float
    regret_s: float


def judge(placement: Placement, actual_s: float) -> Judged | None:
    """None where nothing was predicted, or there was no other way."""
    if not placement.is_estimated:
        return None
    local = placement.local_s, placement.local_loss_s
    remote = placement.remote_s, placement.remote_loss_s
    choice, (taken_s, taken_loss_s), other = (
        ("local", local, remote) if placement.prefill is None else ("remote", remote, local)
    )
    if taken_s <= 0:
        return None
    return Judged(choice, actual_s / taken_s, max(actual_s + taken_loss_s - sum(other), 0.0))
