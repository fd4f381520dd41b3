"""When the requests of an open loop are due. Pure: the generator decides."""

import math

import numpy as np

from engine.errors import ConfigError


def arrival_times(count: int, rate: float, burstiness: float, rng: np.random.Generator) -> list[float]:
    """Due times in seconds after the start, ascending; `rate` is requests per second, inf is all at once.

    As in `vllm bench serve`: gaps are gamma distributed with shape `burstiness` (1 is Poisson, less is burstier, inf is
    evenly spaced) and mean 1 / rate, and are then scaled so that the last request is due at exactly count / rate.
    Without that, short runs of one rate offer loads that differ by several percent from seed to seed.

    Raises ConfigError for a rate or burstiness that is not greater than 0.
    """
    if not rate > 0:
        raise ConfigError("the request rate must be greater than 0", field="--request-rate")
    if not burstiness > 0:
        raise ConfigError("burstiness must be greater than 0", field="--burstiness")
    if count == 0 or math.isinf(rate):
        return [0.0] * count
    if math.isinf(burstiness):
        return [(i + 1) / rate for i in range(count)]
    due = np.cumsum(rng.gamma(burstiness, 1.0, size=count))
    if not due[-1] > 0:
        raise ConfigError(f"burstiness {burstiness} is too small: every gap rounds to 0", field="--burstiness")
    times: list[float] = (due * (count / rate / due[-1])).tolist()
    return times
