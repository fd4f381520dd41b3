"""What a schema says of values of one type: its keywords, and the schemas that it applies to the same value."""

from collections.abc import Iterator

from engine.errors import InvalidRequest
from frontend.schemas.formula import WHOLE, All, Atom, Formula, Not, One, Shapes, Some
from frontend.schemas.keywords import Keywords, dependent_names, has, invalid, mapping, schema_of
from frontend.schemas.places import Documents, Library, Place
from frontend.schemas.shapes import Number
from frontend.schemas.values import among
from frontend.schemas.ways import UNEVALUATED, Ways

_UNKNOWN = ("$recursiveRef", "disallow", "extends", "divisibleBy")
"""Keywords of drafts that are not spoken here."""
_TYPES = frozenset({*WHOLE, "integer"})


class Reader:
    """Reads one schema, and what it refers to."""

    def __init__(self, root: object, documents: Documents) -> None:
        """Raises InvalidRequest for a schema of an unknown dialect."""
        self._library = Library(root, documents)
        self.shapes = Shapes(self.read)
        self.root = self._library.settled(self._library.root)
        self._keywords = Keywords(self._library, self.shapes)
        self._ways = Ways(self, self._keywords)
        self._known: dict[tuple[Place, str], Formula] = {}
        self._reading: set[tuple[Place, str]] = set()

    def read(self, place: Place, kind: str) -> Formula:
        """Raises InvalidRequest, with the keyword, for what is no schema or cannot be said."""
        key = (place, kind)
        if key not in self._known:
            if key in self._reading:
                raise InvalidRequest(f"{place.path} applies to itself without end")
            self._reading.add(key)
            self._known[key] = self._read(place, kind)
            self._reading.discard(key)
        return self._known[key]

    def _read(self, place: Place, kind: str) -> Formula:
        if isinstance(place.key, tuple):  # a value, that stands in no document
            return Some(tuple(among([schema_of(place)["const"]], kind, "const")))
        if isinstance(place.schema, bool):
            return All() if place.schema else Some()
        if UNEVALUATED.get(kind) in self.asked(place):
            return self._ways.formula(place, kind)
        return All((self.own(place, kind), *self._applied(place, kind)))

    def asked(self, place: Place) -> set[str]:
        """The keywords of a schema that mean something. Raises InvalidRequest where one of them is not known."""
        if not isinstance(place.schema, dict):
            raise InvalidRequest(f"{place.path} is no schema")
        found = set(place.schema)
        if self._library.is_old(place):
            if "$ref" in found:
                return {"$ref"}
            found -= {"dependentRequired", "dependentSchemas", *UNEVALUATED.values()}
        elif "dependencies" in found:
            raise invalid(
                place, "dependencies", "means nothing in this draft; give dependentRequired or dependentSchemas"
            )
        for keyword in _UNKNOWN:
            if keyword in found:
                raise invalid(place, keyword, "is not supported")
        return found

    def own(self, place: Place, kind: str) -> Formula:
        """What a schema says itself."""
        schema = schema_of(place)
        if self.asked(place) == {"$ref"}:
            return All()
        made: list[Formula] = []
        if self._library.validates(place):
            if "type" in schema:
                types = self._types(place)
                if kind not in types and not (kind == "number" and "integer" in types):
                    return Some()
                if kind == "number" and kind not in types:
                    made.append(Atom((Number(whole=True),), (Number(whole=False),)))
            for keyword in ("const", "enum"):
                if keyword in schema:
                    values = [schema["const"]] if keyword == "const" else schema["enum"]
                    if not isinstance(values, list):
                        raise invalid(place, keyword, "is no list")
                    if not (options := among(values, kind, f"{place.path}/{keyword}")):
                        return Some()
                    made.append(Some(tuple(options)))
        return All((*made, *self._keywords.read(place, kind)))

    def _types(self, place: Place) -> list[str]:
        types = schema_of(place)["type"]
        types = types if isinstance(types, list) else [types]
        for each in types:
            if each not in _TYPES:
                raise invalid(place, "type", f"{each!r} is unknown")
        return types

    def _applied(self, place: Place, kind: str) -> Iterator[Formula]:
        """What other schemas say that it applies to the same value."""
        asked = self.asked(place)
        for target in self.targets(place):
            yield self.read(target, kind)
        if "anyOf" in asked:
            yield Some(tuple(self.read(each, kind) for each in self.listed(place, "anyOf")))
        if "oneOf" in asked:
            yield One(tuple(self.read(each, kind) for each in self.listed(place, "oneOf")))
        if "not" in asked:
            yield Not(self.read(self.child(place, "not"), kind))
        if "if" in asked and not asked.isdisjoint(("then", "else")):
            holds, then, otherwise = (self.read(self.child(place, each), kind) for each in ("if", "then", "else"))
            yield Some((All((holds, then)), All((Not(holds), otherwise))))
        if kind == "object":
            yield from self.required_by(place)
            for name, target in self.dependent(place):
                yield Some((Not(has(name)), self.read(target, kind)))

    def targets(self, place: Place) -> Iterator[Place]:
        """The schemas that hold where this one does."""
        asked = self.asked(place)
        for keyword, follow in (("$ref", self._library.follow), ("$dynamicRef", self._library.follow_dynamic)):
            if keyword in asked:
                reference = schema_of(place)[keyword]
                if not isinstance(reference, str):
                    raise invalid(place, keyword, "is no reference")
                yield self._library.settled(follow(place, reference))
        if "allOf" in asked:
            yield from self.listed(place, "allOf")

    def dependent(self, place: Place) -> Iterator[tuple[str, Place]]:
        """The schemas that hold where a property is there."""
        for keyword in ("dependentSchemas", "dependencies"):
            if keyword in self.asked(place):
                for name, each in mapping(place, keyword).items():
                    if not isinstance(each, list):
                        yield name, self._place(place, each, f"{keyword}/{name}")

    def required_by(self, place: Place) -> Iterator[Formula]:
        """The properties that must be there where others are."""
        for keyword in ("dependentRequired", "dependencies"):
            if keyword in self.asked(place) and self._library.validates(place):
                yield from dependent_names(place, keyword)

    def listed(self, place: Place, keyword: str) -> list[Place]:
        given = schema_of(place)[keyword]
        if not isinstance(given, list):
            raise invalid(place, keyword, "is no list of schemas")
        return [self._place(place, each, f"{keyword}/{at}") for at, each in enumerate(given)]

    def child(self, place: Place, keyword: str) -> Place:
        """Of a keyword whose value is a schema, which may be left out."""
        return self._place(place, schema_of(place).get(keyword, True), keyword)

    def _place(self, place: Place, schema: object, path: str) -> Place:
        if not isinstance(schema, dict | bool):
            raise invalid(place, path, "is no schema")
        return self._library.settled(self._library.child(place, schema, path))
