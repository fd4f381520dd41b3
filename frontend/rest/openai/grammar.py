"""What the answer must match, in the spellings of OpenAI's and vLLM's clients. At most one of them may be given."""

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from engine.errors import InvalidRequest
from frontend.request import Grammar, GrammarKind
from frontend.rest.schema_grammar import schema_grammar

JsonObject = dict[str, Any]
SchemaOrText = Annotated[JsonObject | str, Meta(description="A JSON schema, or one as text.")]


class JsonSchemaFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Followed to the letter if `strict`; if not, too, but objects that name all their properties have no others."""

    name: Annotated[str, Meta(max_length=256)] | None = None
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


class Structure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JSON of a schema between two texts."""

    begin: str
    schema: JsonObject
    end: str


class ResponseFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    structures: list[Structure] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(Struct, frozen=True, kw_only=True):
    """vLLM's. One of them."""

    json: SchemaOrText | None = None
    json_object: bool | None = None
    regex: Annotated[str, Meta(description="As Rust's regex crate writes them, for the whole answer.")] | None = None
    choice: Annotated[list[str], Meta(description="One of these is the answer.")] | None = None
    grammar: Annotated[str, Meta(description="Lark as llguidance reads it, or GBNF.")] | None = None
    structural_tag: Annotated[str, Meta(description="JSON with structures and triggers.")] | None = None


class Guided(Struct, frozen=True, kw_only=True):
    """The parameters of a request that say what its answer must match."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


def find_grammar(given: Guided) -> tuple[str, Grammar] | None:
    """The parameter that names a grammar, as a path, and the grammar; None where there is none.

    Raises InvalidRequest for two of them, and for one that lacks what it needs.
    """
    outputs = given.structured_outputs or StructuredOutputs()
    response_format = _of_response_format(given.response_format) if given.response_format else None
    found = {
        "response_format": response_format,
        "structured_outputs.json": _schema(outputs.json),
        "structured_outputs.json_object": Grammar(GrammarKind.JSON_OBJECT) if outputs.json_object else None,
        "structured_outputs.regex": _text(GrammarKind.REGEX, outputs.regex),
        "structured_outputs.choice": _choice(outputs.choice),
        "structured_outputs.grammar": _text(GrammarKind.LARK, outputs.grammar),
        "structured_outputs.structural_tag": _text(GrammarKind.STRUCTURAL_TAG, outputs.structural_tag),
        "guided_json": _schema(given.guided_json),
        "guided_regex": _text(GrammarKind.REGEX, given.guided_regex),
        "guided_choice": _choice(given.guided_choice),
        "guided_grammar": _text(GrammarKind.LARK, given.guided_grammar),
    }
    named = [(name, grammar) for name, grammar in found.items() if grammar is not None]
    if len(named) > 1:
        raise InvalidRequest(f"{named[0][0]} and {named[1][0]} exclude each other; give one", field=named[1][0])
    return named[0] if named else None


def _of_response_format(given: ResponseFormat) -> Grammar | None:
    needed = {"json_schema": ("json_schema",), "structural_tag": ("structures", "triggers")}.get(given.type, ())
    for name in ("json_schema", "structures", "triggers"):
        if (getattr(given, name) is None) == (name in needed):
            verb = "needs" if name in needed else "takes no"
            field = f"response_format.{name}"
            raise InvalidRequest(f"response_format of type {given.type} {verb} {name}", field=field)
    match given.type:
        case "text":
            return None
        case "json_object":
            return Grammar(GrammarKind.JSON_OBJECT)
        case "json_schema":
            if given.json_schema is None or given.json_schema.schema is None:
                field = "response_format.json_schema.schema"
                raise InvalidRequest("response_format.json_schema needs a schema", field=field)
            # Clients seldom close what they do not call strict, and a model makes things up.
            return schema_grammar(given.json_schema.schema, "response_format", is_closed=not given.json_schema.strict)
        case "structural_tag":
            tags = {"structures": given.structures, "triggers": given.triggers}
            return Grammar(GrammarKind.STRUCTURAL_TAG, _encoded(msgspec.to_builtins(tags)))


def _schema(given: JsonObject | str | None) -> Grammar | None:
    if given is None:
        return None
    return Grammar(GrammarKind.JSON_SCHEMA, given if isinstance(given, str) else _encoded(given))


def _choice(given: list[str] | None) -> Grammar | None:
    return None if given is None else Grammar(GrammarKind.CHOICE, _encoded(given))


def _text(kind: GrammarKind, given: str | None) -> Grammar | None:
    return None if given is None else Grammar(kind, given)


def _encoded(given: object) -> str:
    return json.dumps(given, ensure_ascii=False)  # msgspec knows no numbers beyond 64 bits
