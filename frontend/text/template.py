"""Renders a conversation into the prompt its model was trained on, with the model's own Jinja chat template.

Templates come with models and are not trusted: they run in Jinja's sandbox, and their output and the time of their
loops are bounded. Does not know tokens; what it renders is encoded without adding special tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from jinja2 import Template, TemplateError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables

from engine.errors import ConfigError, InvalidRequest
from frontend.text.sandbox import in_time, sandbox
from frontend.text.tokenizer_config import TokenizerConfig, read_json

MAX_RENDERED_CHARS = 16_000_000

FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What code in a template can raise when a conversation is not what it expects."""

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Names that are set by other means."""

MARK = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """The chat template of one model, or its several: one for plain chat and one for tools."""

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        now: Callable[[], datetime] = datetime.now,
        max_chars: int = MAX_RENDERED_CHARS,
    ) -> None:
        """`sources` by name, "default" among them. Raises ConfigError if one is not valid Jinja."""
        environment = sandbox(now)
        self.source = "\n".join(sources.values())
        """All of its text, for who wants to know what the model is told."""
        self.default = sources.get("default", "")
        """The text of the one for plain chat."""
        try:
            self._templates = {name: environment.from_string(source) for name, source in sources.items()}
            parsed = [environment.parse(source) for source in sources.values()]
        except TemplateSyntaxError as error:
            raise ConfigError(f"the chat template is not valid: line {error.lineno}: {error.message}") from error
        if "default" not in sources:
            raise ConfigError(f"no chat template is named 'default' among {sorted(sources)}")
        self.variables = frozenset[str]().union(*map(find_undeclared_variables, parsed))
        """Names that it reads and does not set itself."""
        self._special_tokens = special_tokens
        self._max_chars = max_chars
        self.wants_text_arguments = "tool_calls" in self.source and self._wants_text_arguments()
        """Whether the arguments of calls must be JSON text in messages; most templates want objects."""

    @classmethod
    def load(cls, folder: Path, override: Path | str | None = None) -> "ChatTemplate | None":
        """The template of the model in `folder`, or None if it has none.

        `override` replaces the model's: a file, or the template itself if it holds a brace. Raises ConfigError.
        """
        config = TokenizerConfig.load(folder)
        sources = {"default": _read_override(override)} if override is not None else _sources(folder, config)
        try:
            return cls(sources, config.special_tokens) if sources else None
        except ConfigError as error:
            raise ConfigError(f"{override or folder}: {error.message}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        /,
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        documents: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        max_chars: int | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        """The prompt; `variables` are further names the template may know. Raises InvalidRequest if it refuses.

        With `continue_final` it ends where the last message's content does. Of a prompt longer than `max_chars` it
        gives the beginning, which is longer, too, and spares itself the rest.
        """
        if reserved := RESERVED & variables.keys():
            raise InvalidRequest(f"{min(reserved)} is not a variable of the template's own", field="template_kwargs")
        template = self._template(with_tools=tools is not None)
        context = {
            **self._special_tokens,
            **variables,
            "documents": None if documents is None else list(documents),
            "messages": _marked(messages) if continue_final else list(messages),
            "tools": None if tools is None else list(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with in_time():
                rendered = self._bounded(template, context, max_chars)
        except FAULTS as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", field="messages") from error
        if not continue_final or (max_chars is not None and len(rendered) > max_chars):
            return rendered
        return _cut(rendered, messages[-1])

    def _wants_text_arguments(self) -> bool:
        """Found by trying both, as templates do not say."""
        try:
            self.render(_conversation({"key": "value"}), tools=[_tool()])
        except InvalidRequest:
            try:
                self.render(_conversation('{"key": "value"}'), tools=[_tool()])
            except InvalidRequest:
                return False
            return True
        return False

    def _template(self, *, with_tools: bool) -> Template:
        return self._templates["tool_use" if with_tools and "tool_use" in self._templates else "default"]

    def _bounded(self, template: Template, context: Mapping[str, object], max_chars: int | None) -> str:
        parts = []
        length = 0
        for part in template.generate(context):
            parts.append(part)
            length += len(part)
            if max_chars is not None and length > max_chars:
                break
            if length > self._max_chars:
                raise InvalidRequest(f"the prompt is longer than {self._max_chars} characters", field="messages")
        return "".join(parts)


def _marked(messages: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """With a mark at the end of the last message's content."""
    match messages:
        case [*before, {"content": str(content), **rest}]:
            return [*before, {**rest, "content": content + MARK}]
        case _:
            raise InvalidRequest("the last message has no content to continue", field="messages")


def _cut(rendered: str, final: Mapping[str, object]) -> str:
    """Before the mark. Where the template trims messages, it would have trimmed the last one, too."""
    end = rendered.rfind(MARK.strip())
    if end < 0 or str(final["content"]).strip() not in rendered:
        message = "the chat template leaves out some of the last message, which cannot be continued"
        raise InvalidRequest(message, field="messages")
    return rendered[:end] if rendered.startswith(MARK, end) else rendered[:end].rstrip()


def _conversation(arguments: object) -> list[Mapping[str, object]]:
    """With a call of a tool."""
    call = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]


def _tool() -> dict[str, object]:
    parameters = {"type": "object", "properties": {"key": {"type": "string", "description": "What for."}}}
    return {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": parameters}}


def _sources(folder: Path, config: TokenizerConfig) -> dict[str, str]:
    """Templates by name, from the first place that has any: files of their own, the configuration, the old file."""
    named = {path.stem: _read(path) for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (path := folder / "chat_template.jinja").exists():
        return {**named, "default": _read(path)}
    return (
        named or _named(config.chat_template) or _named(read_json(folder / "chat_template.json").get("chat_template"))
    )


def _named(value: object) -> dict[str, str]:
    match value:
        case str(source):
            return {"default": source}
        case [*entries]:
            found = (_named_entry(entry) for entry in entries)
            return {name: source for name, source in found if name}
        case _:
            return {}


def _named_entry(entry: object) -> tuple[str, str]:
    match entry:
        case {"name": str(name), "template": str(source)}:
            return name, source
        case _:
            return "", ""


def _read_override(override: Path | str) -> str:
    return override if isinstance(override, str) and "{" in override else _read(Path(override))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the chat template {path} cannot be read: {error}") from error
