"""What is kept of responses: for how long, how much, and for whom."""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from msgspec import structs

from engine.errors import InvalidRequest, UnknownRequest
from frontend.callers import Caller
from frontend.events import Started
from frontend.rest.openai.responses.answer import begun
from frontend.rest.openai.responses.items import Item, ResponseMessage
from frontend.rest.openai.responses.request_types import ResponseRequest
from frontend.rest.openai.responses.store import CallersStore, Kept, Store, UnknownPrevious

ANN, BOB = Caller(name="ann"), Caller(name="bob")


def kept(number: int, size: int = 100, *items: str) -> Kept:
    begun_as = begun(ResponseRequest(model="m"), Started(f"req-{number}", "m", 1, 0))
    document = structs.replace(begun_as, status="completed")
    given: tuple[Item, ...] = tuple(ResponseMessage(id=name, role="user", content="x") for name in items)
    return Kept(document=document, input=given, context=given, context_bytes=size)


def ids(store: CallersStore, *numbers: int) -> list[int]:
    """Those of them that are there."""
    found = []
    for number in numbers:
        with suppress(UnknownRequest):
            found.append(int(store.get(f"resp_{number}").document.id.removeprefix("resp_")))
    return found


def test_nobody_sees_what_others_have() -> None:
    store = Store()
    store.of(ANN).keep(kept(1, 100, "a"))
    assert store.of(ANN).get("resp_1").document.id == "resp_1"
    assert store.of(ANN).previous("resp_1") is store.of(ANN).get("resp_1")
    assert store.of(ANN).item("a").id == "a"
    for action in (store.of(BOB).get, store.of(BOB).drop):
        with pytest.raises(UnknownRequest):
            action("resp_1")
    with pytest.raises(UnknownPrevious):
        store.of(BOB).previous("resp_1")
    with pytest.raises(InvalidRequest):
        store.of(BOB).item("a")
    assert store.of(Caller(name="ann", priority=3)).get("resp_1"), "limits of a key may change"


def test_the_oldest_go_where_there_are_too_many() -> None:
    store = Store(max_responses=3)
    for number in range(5):
        store.of(ANN).keep(kept(number))
    assert ids(store.of(ANN), *range(5)) == [2, 3, 4]
    assert (store.num_responses, store.num_bytes) == (3, 300)


def test_who_has_most_gives_way() -> None:
    store = Store(max_bytes=1000)
    store.of(BOB).keep(kept(9))
    for number in range(20):
        store.of(ANN).keep(kept(number))
    assert ids(store.of(BOB), 9) == [9]
    assert ids(store.of(ANN), *range(20)) == list(range(11, 20))
    assert store.num_bytes == 1000


def test_what_is_too_large_is_not_kept() -> None:
    store = Store(max_bytes=1000)
    store.of(ANN).keep(kept(1, 1001))
    assert (store.num_responses, store.num_bytes) == (0, 0)
    with pytest.raises(UnknownRequest):
        store.of(ANN).get("resp_1")


def test_all_of_it_ends() -> None:
    now = 0.0
    store = Store(max_age_s=10, now=lambda: now)
    store.of(ANN).keep(kept(1, 100, "a"))
    now = 6
    store.of(ANN).keep(kept(2, 100, "b"))
    now = 10
    assert ids(store.of(ANN), 1, 2) == [2]
    with pytest.raises(InvalidRequest):
        store.of(ANN).item("a")
    now = 16
    assert ids(store.of(ANN), 1, 2) == []
    assert (store.num_responses, store.num_bytes) == (0, 0)


def test_work_at_what_nobody_can_ask_for_is_abandoned() -> None:
    abandoned: list[int] = []
    store = Store(max_responses=2)
    ann = store.of(ANN)
    for number in range(4):
        ann.keep(replace(kept(number), abandon=partial(abandoned.append, number)))
    assert abandoned == [0, 1]
    ann.keep(kept(2))
    assert abandoned == [0, 1], "it is complete"
    ann.drop("resp_2")
    ann.drop("resp_3")
    assert abandoned == [0, 1, 3]
    assert store.num_bytes == 0


def test_items_are_there_as_long_as_the_newest_response_that_has_them() -> None:
    store = Store()
    ann = store.of(ANN)
    ann.keep(kept(1, 100, "a", "b"))
    ann.keep(kept(2, 100, "b"))
    ann.drop("resp_1")
    assert ann.item("b").id == "b"
    with pytest.raises(InvalidRequest):
        ann.item("a")
    ann.drop("resp_2")
    with pytest.raises(InvalidRequest):
        ann.item("b")
