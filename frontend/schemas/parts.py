"""Numbers that are not whole, as a terminal. Knows bounds that are whole."""

from collections.abc import Iterator

from engine.errors import InvalidRequest
from frontend.schemas.shapes import Number

MAX_DIGITS = 8
"""Before the point. With more, or so near a whole number that this does not tell them apart, it may be read as one."""
_NEAR = MAX_DIGITS - 1


def parts_of(number: Number) -> str:
    """Raises InvalidRequest for bounds within which it cannot be said."""
    for bound in (number.least, number.most):
        if number.step is not None or (bound is not None and bound.denominator != 1):
            raise InvalidRequest(
                "not of type integer is not supported beside multipleOf, or a minimum or maximum of parts"
            )
    least, most = (None if bound is None else bound.numerator for bound in (number.least, number.most))
    sides: list[str] = []
    if most is None or most > 0:
        sides += _between(max(least or 0, 0), most)
    if least is None or least < 0:
        sides += (f"-{each}" for each in _between(max(-(most or 0), 0), None if least is None else -least))
    if not sides:
        raise InvalidRequest("not of type integer is not supported of numbers with so many digits")
    return rf"/(?:{'|'.join(sides)})\.[0-9]*[1-9]/ & ~/-?[0-9]+\.(?:0{{{_NEAR}}}|9{{{_NEAR}}})[0-9]*/"


def _between(least: int, most: int | None) -> Iterator[str]:
    """What is before the point, of numbers from one whole number to another; for every length."""
    for digits in range(1, MAX_DIGITS + 1):
        low, high = max(least, 10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1
        high = high if most is None else min(high, most - 1)
        if low <= high:
            yield _of_length(str(low), str(high))


def _of_length(low: str, high: str) -> str:
    """Whole numbers from one to another of the same length."""
    if not low:
        return ""
    if low[0] == high[0]:
        return low[0] + _of_length(low[1:], high[1:])
    length = len(low) - 1
    if not int(low[1:] or 0) and not (high[1:].strip("9")):
        return f"[{low[0]}-{high[0]}][0-9]{{{length}}}"
    options = [low[0] + _of_length(low[1:], "9" * length), high[0] + _of_length("0" * length, high[1:])]
    if int(low[0]) + 1 < int(high[0]):
        options.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{length}}}")
    return f"(?:{'|'.join(options)})"
