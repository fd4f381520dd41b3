"""Schemas where they stand: what identifies a schema and where references lead.

Knows identifiers, anchors, dialects and the documents that a deployment has. Nothing is fetched. Does not know what
keywords ask for.
"""

import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin

from engine.errors import InvalidRequest

SCHEMAS = frozenset(
    {
        *("additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "else", "if", "items", "not"),
        *("oneOf", "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
    }
)
"""Keywords whose value is a schema, or a list of schemas."""
SCHEMAS_BY_NAME = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)

ANNOTATIONS = frozenset(
    {
        *("$comment", "$defs", "$id", "$schema", "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema"),
        *("default", "definitions", "deprecated", "description", "examples", "id", "readOnly", "title", "writeOnly"),
    }
)
"""Keywords that ask for nothing where they stand."""

_REFERENCE = ANNOTATIONS | {"$ref"}
_MAX_FOLLOWED = 64

Documents = Callable[[str], object]
"""The document of a URI, None where there is none."""


def no_documents(uri: str) -> object:
    return None


_DIALECT = re.compile(r"https?://json-schema\.org/(?:draft-0([467])/|draft/(2019-09|2020-12)/|)schema#?")
_VALIDATION = re.compile(r"https://json-schema\.org/draft/\d{4}-\d\d/vocab/validation")


@dataclass(frozen=True, slots=True)
class Place:
    """A schema in its surroundings. What may not depend on them has none."""

    key: Hashable
    base: str = ""
    """The URI of the resource that it is part of."""
    scope: tuple[str, ...] = ()
    """The resources on the way there, of those with dynamic anchors."""
    schema: object = field(default=True, compare=False)
    path: str = field(default="#", compare=False)
    """How it was come by, for messages."""


@dataclass(slots=True)
class _Resource:
    """A schema with a URI of its own."""

    schema: object
    uri: str
    old: bool
    """Of a draft before 2019, in which a `$ref` stands alone and newer keywords mean nothing."""
    validates: bool
    """Whether its dialect has the keywords of validation."""
    anchors: dict[str, object] = field(default_factory=dict)
    dynamic: dict[str, object] = field(default_factory=dict)


class Library:
    """The resources of one schema, and of the documents that it refers to."""

    def __init__(self, root: object, documents: Documents) -> None:
        """Raises InvalidRequest for a schema of an unknown dialect."""
        self._documents = documents
        self._resources: dict[str, _Resource] = {}
        self._missing: set[str] = set()
        self._add(root, "")
        self._load_all()
        self._has_scopes = any(each.dynamic for each in self._resources.values())
        self.root = self._enter(root, self._base_of(root, "", old=self._resources[""].old), (), "#")

    def is_old(self, place: Place) -> bool:
        return self._resources[place.base].old

    def validates(self, place: Place) -> bool:
        return self._resources[place.base].validates

    def child(self, place: Place, schema: object, path: str) -> Place:
        """The place of a schema in the one at `place`."""
        base = self._base_of(schema, place.base, old=self.is_old(place))
        return self._enter(schema, base, place.scope, f"{place.path}/{path}")

    def settled(self, place: Place) -> Place:
        """Where a schema that is nothing but a reference leads in the end."""
        for _ in range(_MAX_FOLLOWED):
            schema = place.schema
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return place
            if not self.is_old(place) and not _REFERENCE.issuperset(schema):
                return place
            place = self.follow(place, schema["$ref"])
        raise InvalidRequest(f"{place.path} refers to itself")

    def follow(self, place: Place, reference: str) -> Place:
        """Where a `$ref` leads. Raises InvalidRequest."""
        uri, _, fragment = reference.partition("#")
        base = _joined(place.base, uri) if uri else place.base
        resource = self._resources.get(base)
        if resource is None:
            raise InvalidRequest(f"$ref leads to {base or reference}, which is not at hand; nothing is fetched")
        fragment = unquote(fragment)
        if not fragment:
            return self._enter(resource.schema, resource.uri, place.scope, f"{base}#")
        if fragment.startswith("/"):
            return self._at_pointer(resource, fragment, place.scope)
        for anchors in (resource.anchors, resource.dynamic):
            if fragment in anchors:
                return self._enter(anchors[fragment], resource.uri, place.scope, f"{base}#{fragment}")
        raise InvalidRequest(f"$ref leads to {reference}, and there is no such anchor")

    def follow_dynamic(self, place: Place, reference: str) -> Place:
        """Where a `$dynamicRef` leads from here: to the outermost anchor of its name on the way, if its own is one."""
        initial = self.follow(place, reference)
        name = unquote(reference.partition("#")[2])
        if name not in self._resources[initial.base].dynamic:
            return initial
        for base in initial.scope:
            dynamic = self._resources[base].dynamic
            if name in dynamic:
                return self._enter(dynamic[name], base, place.scope, f"{base}#{name}")
        return initial

    def _enter(self, schema: object, base: str, scope: tuple[str, ...], path: str) -> Place:
        if self._has_scopes and base not in scope and self._resources[base].dynamic:
            scope = (*scope, base)
        return Place(id(schema), base, scope if self._has_scopes else (), schema, path)

    def _at_pointer(self, resource: _Resource, pointer: str, scope: tuple[str, ...]) -> Place:
        value, base = resource.schema, resource.uri
        for token in pointer[1:].split("/"):
            token = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and token in value:
                value = value[token]
            elif isinstance(value, list) and token.isdecimal() and int(token) < len(value):
                value = value[int(token)]
            else:
                raise InvalidRequest(f"$ref leads to {base}#{pointer}, and there is nothing")
            base = self._base_of(value, base, old=resource.old)
        return self._enter(value, base, scope, f"{base}#{pointer}")

    def _base_of(self, schema: object, base: str, *, old: bool) -> str:
        own = _own_uri(schema, old=old)
        joined = base if own is None else _joined(base, own)
        return joined if joined in self._resources else base

    def _add(self, schema: object, uri: str, above: _Resource | None = None) -> None:
        old, validates = self._dialect(schema, above)
        own = _own_uri(schema, old=old)
        resource = _Resource(schema, uri if own is None else _joined(uri, own), old, validates)
        for name in (uri, resource.uri):
            self._resources.setdefault(name, resource)
        self._look(schema, resource)

    def _look(self, schema: object, resource: _Resource) -> None:
        """Take in the anchors of a resource, and the resources within it."""
        if isinstance(schema, dict):
            self._take_anchors(schema, resource)
        for each in _within(schema):
            if _own_uri(each, old=resource.old) is not None:
                self._add(each, resource.uri, resource)
            else:
                self._look(each, resource)

    def _take_anchors(self, schema: dict[str, object], resource: _Resource) -> None:
        identifier = schema.get("id" if "id" in schema and resource.old else "$id")
        if resource.old and isinstance(identifier, str) and identifier.startswith("#"):
            resource.anchors[identifier[1:]] = schema
        for keyword, anchors in (("$anchor", resource.anchors), ("$dynamicAnchor", resource.dynamic)):
            if isinstance(name := schema.get(keyword), str) and not resource.old:
                anchors[name] = schema

    def _load_all(self) -> None:
        """Documents that are referred to, and those that they refer to."""
        seen: set[str] = set()
        while waiting := [uri for uri in self._resources if uri not in seen]:
            for uri in waiting:
                seen.add(uri)
                for reference in _references(self._resources[uri].schema):
                    self._load(_joined(uri, reference).partition("#")[0])

    def _load(self, uri: str) -> None:
        if uri and uri not in self._resources and uri not in self._missing:
            document = self._documents(uri)
            if document is None:
                self._missing.add(uri)
            else:
                self._add(document, uri)

    def _dialect(self, schema: object, above: _Resource | None) -> tuple[bool, bool]:
        name = schema.get("$schema") if isinstance(schema, dict) else None
        if not isinstance(name, str):
            return (above.old, above.validates) if above else (False, True)
        if known := _DIALECT.fullmatch(name):
            return known[1] is not None, True
        described = self._documents(name.removesuffix("#"))
        if not isinstance(described, dict):
            raise InvalidRequest(f"$schema names {name[:200]}, a dialect that is not known here")
        vocabulary = described.get("$vocabulary")
        if not isinstance(vocabulary, dict):
            return False, True
        return False, any(_VALIDATION.fullmatch(each) for each in vocabulary)


def _own_uri(schema: object, *, old: bool) -> str | None:
    """The identifier that makes a schema a resource, without a fragment."""
    if not isinstance(schema, dict) or (old and "$ref" in schema):
        return None
    name = schema.get("$id", schema.get("id") if old else None)
    if not isinstance(name, str) or name.startswith("#"):
        return None
    return name.partition("#")[0]


def _joined(base: str, reference: str) -> str:
    if reference.startswith("#"):
        return base + reference
    return urljoin(base, reference) if not base.startswith("urn:") else reference


def _within(schema: object) -> Iterator[object]:
    """The schemas that are parts of one."""
    if isinstance(schema, list):
        yield from schema
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in SCHEMAS:
            yield from value if isinstance(value, list) else (value,)
        elif key in SCHEMAS_BY_NAME and isinstance(value, dict):
            yield from value.values()


def _references(schema: object) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from (each[key] for key in ("$ref", "$dynamicRef") if isinstance(each.get(key), str))
        waiting += _within(each)
