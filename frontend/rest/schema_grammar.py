"""The grammar of a JSON schema as a client has sent it. Does not know what schemas mean."""

import json

from engine.errors import InvalidRequest
from frontend.closed_schema import Schema, closed
from frontend.request import Grammar, GrammarKind


def schema_grammar(schema: Schema, field: str, *, is_closed: bool) -> Grammar:
    """Of the schema in `field`, closed or as it is. Raises InvalidRequest."""
    try:
        text = json.dumps(closed(schema) if is_closed else schema, ensure_ascii=False)  # of numbers beyond 64 bits, too
    except RecursionError:
        raise InvalidRequest(f"{field} is nested too deeply", field=field) from None
    return Grammar(GrammarKind.JSON_SCHEMA, text)
