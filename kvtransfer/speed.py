"""How fast a link moves bytes: a moving average over what it moved lately, counting only the time it was busy."""

HALF_LIFE_BYTES = 64 << 20
"""After this many bytes, an old measurement weighs half."""


class Speed:
    """Bytes and seconds that fade together."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0

    @property
    def bytes_per_s(self) -> float:
        """0.0 until something was measured."""
        return self._bytes / self._seconds if self._seconds else 0.0

    def add(self, size_bytes: int, seconds: float) -> None:
        fade = 0.5 ** (size_bytes / HALF_LIFE_BYTES)
        self._bytes = self._bytes * fade + size_bytes
        self._seconds = self._seconds * fade + seconds
