"""Moving averages of what a worker does, for the router's estimates and for metrics."""


class Rate:
    """Amount per second of busy time, exponentially weighted by time: `half_life_s` busy seconds halve a sample."""

    def __init__(self, half_life_s: float = 2.0) -> None:
        self._half_life_s = half_life_s
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        """Note that `amount` took `seconds`."""
        keep = 0.5 ** (seconds / self._half_life_s)
        self._amount = self._amount * keep + amount
        self._seconds = self._seconds * keep + seconds

    @property
    def per_s(self) -> float:
        """0 until something was noted."""
        return self._amount / self._seconds if self._seconds else 0.0
