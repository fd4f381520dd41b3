"""The Jinja environment that chat templates run in.

Sandboxed, and set up as transformers does, which is what the authors of templates test with.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


def sandbox(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """An environment whose templates reach nothing but what they are given; `now` is their clock."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        dict=_new_dict,
        namespace=_new_namespace,
        raise_exception=_raise_exception,
        strftime_now=lambda format: now().strftime(format),
    )
    return environment


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
