"""Instructor over OpenAI's client: typed answers in every mode that a text model can be held to."""

from typing import Any, Literal

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field
from served import HTTP, MODEL, QUESTION


class Place(BaseModel):
    kind: Literal["city", "river"]
    name: str = Field(max_length=20)
    size: int = Field(ge=0, le=9)


MODES = [
    instructor.Mode.TOOLS,
    instructor.Mode.JSON_SCHEMA,
    instructor.Mode.RESPONSES_TOOLS,
]
ASKED: Any = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_retries": 0}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_typed_answer(mode: instructor.Mode) -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{HTTP}/v1", api_key="none", timeout=120), mode=mode)
    answer = client.create(**ASKED, response_model=Place)
    assert isinstance(answer, Place)


def test_a_typed_answer_as_it_grows() -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{HTTP}/v1", api_key="none", timeout=120))
    parts = list(client.create_partial(**ASKED, response_model=Place))
    assert len(parts) > 1
    assert parts[-1].kind in ("city", "river")
