"""Keywords that llguidance has not, said in those that it has, where the meaning is exactly the same.

    dependentRequired {a: [b]}     anyOf [properties {a: false}, required [b]]     and so dependentSchemas, dependencies
    propertyNames {pattern: p}     patternProperties {p: true}, additionalProperties false
    unevaluatedProperties false    additionalProperties false, where nothing beside it evaluates properties
    not {type: t}                  every other type
    if true, then s                s

What cannot be said so stays, and is refused by name. Knows one schema object at a time, whose parts were rewritten.
"""

from collections.abc import Collection

Schema = dict[str, object]

_APPLICATORS = frozenset({"$dynamicRef", "$recursiveRef", "$ref", "allOf", "anyOf", "dependentSchemas", "if", "oneOf"})
"""Keywords beside which it depends on the instance what is evaluated."""
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_MAX_DEPENDENCIES = 6
"""Of one object: each doubles the ways in which it can be written."""


def rewrite(schema: Schema, *, old: bool) -> Schema:
    """The schema without the keywords that can be said otherwise. `old`: of a draft before 2019, in which a `$ref`
    stands alone and newer keywords mean nothing."""
    if old and "$ref" in schema:
        return schema
    made = dict(schema)
    _drop_idle(made)
    if not old:
        _close(made, "unevaluatedProperties", "additionalProperties", _APPLICATORS)
        _close(made, "unevaluatedItems", "items", _APPLICATORS | {"contains"})
    beside = [*_negation(made), *_names(made)]
    if "unevaluatedProperties" not in made and "unevaluatedItems" not in made:  # they would see what is said otherwise
        beside += [*_condition(made), *_dependencies(made, old=old)]
    if beside:
        all_of = made.pop("allOf", [])
        made["allOf"] = [*all_of, *beside] if isinstance(all_of, list) else all_of
    return made


def _drop_idle(made: Schema) -> None:
    """Keywords that mean nothing without others."""
    seen = not made.keys().isdisjoint(("unevaluatedItems", "unevaluatedProperties"))
    if "if" not in made or (made.keys().isdisjoint(("then", "else")) and not seen):
        for keyword in ("if", "then", "else"):
            made.pop(keyword, None)
    if "contains" not in made:
        made.pop("minContains", None)
        made.pop("maxContains", None)
    elif made.get("minContains") == 0 and "maxContains" not in made and not seen:
        del made["contains"], made["minContains"]


def _close(made: Schema, keyword: str, plain: str, applicators: Collection[str]) -> None:
    """`keyword` is about what no other keyword has evaluated; among siblings alone that is what `plain` is about."""
    if keyword in made and made.keys().isdisjoint(applicators) and not isinstance(made.get(plain), list):
        made.setdefault(plain, made.pop(keyword))
        made.pop(keyword, None)


def _condition(made: Schema) -> list[object]:
    if "if" not in made or _is_anything(made["if"]) is None:
        return []
    holds = _is_anything(made.pop("if"))
    branches = made.pop("then", True), made.pop("else", True)
    return [branches[0] if holds else branches[1]]


def _dependencies(made: Schema, *, old: bool) -> list[object]:
    keywords = ("dependencies",) if old else ("dependentRequired", "dependentSchemas")
    found: list[tuple[str, object]] = []
    for keyword in keywords:
        value = made.get(keyword, {})
        if not isinstance(value, dict):
            return []
        found += value.items()
    if len(found) > _MAX_DEPENDENCIES:
        return []
    for keyword in keywords:
        made.pop(keyword, None)
    return [
        {"anyOf": [{"properties": {name: False}}, {"required": needed} if isinstance(needed, list) else needed]}
        for name, needed in found
    ]


def _negation(made: Schema) -> list[object]:
    negated = made.get("not")
    if "not" not in made:
        return []
    if (anything := _is_anything(negated)) is not None:
        del made["not"]
        return [False] if anything else []
    match negated:
        case {"type": str() | list() as types, **rest} if not rest:
            forbidden = {types} if isinstance(types, str) else {each for each in types if isinstance(each, str)}
            if "integer" in forbidden and "number" not in forbidden:
                return []
            del made["not"]
            allowed = [each for each in _TYPES if each not in forbidden]
            return [{"type": allowed} if allowed else False]
        case {"required": [str(name)], **rest} if not rest:
            del made["not"]
            return [{"type": "object", "properties": {name: False}}]
    return []


def _names(made: Schema) -> list[object]:
    if "propertyNames" not in made:
        return []
    names = made["propertyNames"]
    if not isinstance(names, bool | dict):
        return []
    anything = _is_anything(names)
    if isinstance(names, bool) or anything:
        del made["propertyNames"]
        return [] if anything else [{"additionalProperties": False}]
    asked = {keyword: value for keyword, value in names.items() if (keyword, value) != ("type", "string")}
    allowed = [_named(keyword, value) for keyword, value in asked.items()]
    if None in allowed:
        return []
    del made["propertyNames"]
    return [{**each, "additionalProperties": False} for each in allowed if each is not None]


def _named(keyword: str, value: object) -> Schema | None:
    """Properties whose names `keyword` allows; None for keywords of which that cannot be said."""
    match keyword, value:
        case "pattern", str():
            return {"patternProperties": {value: True}}
        case "enum", list() if all(isinstance(name, str) for name in value):
            return {"properties": dict.fromkeys(value, True)}
        case "const", str():
            return {"properties": {value: True}}
        case "maxLength", int():
            return {"patternProperties": {f"^[\\s\\S]{{0,{value}}}$": True}}
        case "minLength", int():
            return {"patternProperties": {f"^[\\s\\S]{{{value},}}$": True}}
        case _:
            return None


def _is_anything(schema: object) -> bool | None:
    """Whether a schema lets everything through, or nothing; None where it depends on the instance."""
    if isinstance(schema, bool):
        return schema
    return True if schema == {} else None
