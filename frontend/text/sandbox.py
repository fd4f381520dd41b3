"""The Jinja environment that chat templates run in.

Sandboxed, and set up as transformers does, which is what the authors of templates test with. Loops end with the time
that a rendering may take.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Filter, For, Node, Scope
from jinja2.nodes import Template as Tree
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_RENDER_S = 2.0
"""Real templates take milliseconds for a long conversation."""

_ends_s: ContextVar[float] = ContextVar("_ends_s")
"""When the rendering that is under way has taken its time, by `time.monotonic()`."""


@contextmanager
def in_time() -> Iterator[None]:
    """Templates that are rendered within may loop for `MAX_RENDER_S`; TemplateError after that."""
    token = _ends_s.set(time.monotonic() + MAX_RENDER_S)
    try:
        yield
    finally:
        _ends_s.reset(token)


def sandbox(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """An environment whose templates reach nothing but what they are given; `now` is their clock."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters[_IN_TIME] = _each_in_time
    environment.globals.update(
        dict=_new_dict,
        namespace=_new_namespace,
        raise_exception=_raise_exception,
        strftime_now=lambda format: now().strftime(format),
    )
    return environment


_IN_TIME = "_in_time"


class _Environment(ImmutableSandboxedEnvironment):
    """Has every loop look at the time."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> Tree:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(For)):
            loop.iter = Filter(loop.iter, _IN_TIME, [], [], None, None, lineno=loop.lineno)
        return tree


@pass_context  # or Jinja would run it as it compiles
def _each_in_time(_: object, values: Iterable[object]) -> Iterator[object]:
    ends_s = _ends_s.get(None)
    for value in values:
        if ends_s is not None and time.monotonic() > ends_s:
            raise TemplateError("it takes too long")
        yield value


class _Generation(Extension):
    """{% generation %} marks what an assistant said, for training; here its content is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """A namespace that cannot pose as something else by setting names like `__class__`."""

    def __setitem__(self, name: str, value: object) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _new_namespace(items: Mapping[str, object] | Iterable[tuple[str, object]] = (), /, **more: object) -> _Namespace:
    content = _new_dict(items, **more)
    for name in content:
        _refuse_private(name)
    return _Namespace(content)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _new_dict(items: Mapping[str, object] | Iterable[tuple[str, object]] = (), /, **more: object) -> dict[str, object]:
    """`dict` for templates: the call without the type."""
    return dict(items, **more)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which models never saw."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
