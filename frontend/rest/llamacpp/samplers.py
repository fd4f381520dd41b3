"""Which samplers a request names, and whether the sampler that there is does what they do.

It applies penalties, the temperature, top_k, top_p and min_p, in this order. llama.cpp applies the temperature last,
unless told otherwise: of what comes before it, top_k keeps the same tokens either way, min_p does with another number,
and top_p does not. Knows names and numbers. Does not know the other parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from engine.errors import InvalidRequest
from frontend.fields import UnsupportedParameter

DEFAULT = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
ORDER = ("penalties", "top_k", "top_p", "min_p")
"""That is kept; the temperature may come anywhere."""
_SPELLED = MappingProxyType(
    {
        **{name.replace("_", ""): name for name in (*DEFAULT, "adaptive_p", "infill")},
        "nucleus": "top_p",
        "temp": "temperature",
        "typ": "typ_p",
    }
)
_LETTERS = MappingProxyType(
    {
        "a": "adaptive_p",
        "d": "dry",
        "e": "penalties",
        "i": "infill",
        "k": "top_k",
        "m": "min_p",
        "p": "top_p",
        "s": "top_n_sigma",
        "t": "temperature",
        "x": "xtc",
        "y": "typ_p",
    }
)


@dataclass(frozen=True, slots=True)
class Chain:
    """The samplers of one request."""

    names: tuple[str, ...] = DEFAULT

    @classmethod
    def of(cls, given: str | Sequence[str] | None) -> "Chain":
        """By their names, or by a letter each. Raises InvalidRequest for what nobody knows or nothing here does."""
        if given is None:
            return cls()
        known = _LETTERS if isinstance(given, str) else _SPELLED
        names = []
        for number, spelled in enumerate(given[: len(_SPELLED) + 1]):
            name = known.get(spelled if isinstance(given, str) else spelled.lower().replace("_", "").replace("-", ""))
            if name is None:
                raise InvalidRequest(f"samplers names {spelled[:40]!r}, which is none", field=f"samplers[{number}]")
            names.append(name)
        if len(set(names)) < len(names):
            raise InvalidRequest("samplers names one twice", field="samplers")
        if "infill" in names:
            raise UnsupportedParameter("samplers: infill is not supported by this server", field="samplers")
        if sorted(kept := [name for name in names if name in ORDER], key=ORDER.index) != kept:
            order = ", ".join(ORDER)
            raise UnsupportedParameter(f"samplers: no other order than {order} is supported", field="samplers")
        return cls(tuple(names))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def min_p_after_temperature(self, min_p: float, temperature: float) -> float:
        """What keeps, after the temperature was applied, the tokens that `min_p` keeps where this chain has it."""
        if not 0 < min_p < 1 or temperature <= 0 or not self._is_temperature_after("min_p"):
            return min_p
        return float(min_p ** (1 / temperature))

    def _is_temperature_after(self, name: str) -> bool:
        return {name, "temperature"} <= set(self.names) and self.names.index(name) < self.names.index("temperature")
