"""A model that a frontend serves, as far as text is concerned: tokenizer, chat template, limits and defaults."""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from engine.errors import ConfigError, InvalidRequest
from engine.grammar import Grammars
from engine.models.families import model_spec
from engine.models.spec import ModelSpec
from engine.pooling import Pooling
from frontend.checks import ModelLimits, resolve
from frontend.embedding import pooling_of
from frontend.grammar import GrammarCompiler
from frontend.infill import fim_tokens
from frontend.request import GenerateRequest
from frontend.schemas.places import Documents, no_documents
from frontend.text.parsers.families import Families
from frontend.text.template import ChatTemplate
from frontend.text.tokenizer import Tokenizer
from frontend.text.tokenizer_config import read_json

DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Fields of generation_config.json that stand in for what a request does not give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What the frontend knows of a model it serves. Limits of the context are those of the workers, in `Hello`."""

    name: str
    created: int
    """Unix seconds."""
    tokenizer: Tokenizer
    template: ChatTemplate | None
    limits: ModelLimits
    grammars: GrammarCompiler | None = None
    """None: no answer can be held to a grammar."""
    families: Families = Families()
    """How answers are taken apart."""
    infills: bool = False
    """Whether it has tokens for what stands between two texts."""
    pooling: Pooling = Pooling.MEAN
    """How prompts become vectors."""
    aliases: frozenset[str] = frozenset()
    """Other names that requests may call it."""
    takes_any_name: bool = False
    """Whatever model a request names that nobody has, it means this one."""
    fallback: tuple[str, ...] = ()
    """Models that answer, in this order, while no decode worker serves this one."""
    spec: ModelSpec | None = None
    """Its dimensions."""
    size_bytes: int = 0
    """Of the files with its weights."""

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        chat_template: Path | None,
        *,
        tool_parser: str = "auto",
        reasoning_parser: str = "auto",
        embedding_pooling: Literal["auto", "mean", "last"] = "auto",
        documents: Documents = no_documents,
    ) -> "LoadedModel":
        """Raises ConfigError naming the file and field that is missing, makes no sense or is not supported."""
        if not (folder / "config.json").exists():
            raise ConfigError(f"{folder} has no config.json")
        config, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
        spec = model_spec(config)
        limits = ModelLimits(
            vocab_size=spec.vocab_size,
            max_context=spec.max_context,
            eos_token_ids=_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
            defaults={field: value for field in DEFAULTS if (value := _number(generation.get(field))) is not None},
        )
        try:
            resolve(GenerateRequest(prompt=""), 0, limits)  # a request that gives nothing gets these defaults
        except InvalidRequest as error:
            raise ConfigError(f"generation_config.json: {error.message}", field=error.field) from error
        tokenizer = Tokenizer.load(folder)
        grammars = Grammars(folder, spec.vocab_size, limits.eos_token_ids)
        template = ChatTemplate.load(folder, chat_template)
        return cls(
            name=name,
            created=int(time.time()),
            tokenizer=tokenizer,
            template=template,
            limits=limits,
            grammars=GrammarCompiler(grammars, tokenizer.special_ids, documents),
            families=Families.of("" if template is None else template.source, tool_parser, reasoning_parser),
            infills=fim_tokens(partial(_encoded, tokenizer)) is not None,
            pooling=pooling_of(folder, embedding_pooling),
            spec=spec,
            size_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        )


def _encoded(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool | None = None) -> list[int]:
    return tokenizer.encode(text, bool(add_special_tokens))


def _ids(value: object) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(item for item in values if isinstance(item, int))


def _number(value: object) -> float | None:
    """Of what no float holds, nothing: it is no setting of anybody's."""
    return float(value) if isinstance(value, int | float) and abs(value) < sys.float_info.max else None
