"""Chat templates: every recorded case, where templates are found, and what they cannot do."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, InvalidRequest
from frontend.text import sandbox
from frontend.text.template import ChatTemplate
from tests.frontend.text_samples import tokenizer
from tests.shared_data import shared_data

USER = {"role": "user", "content": "Hi <b>&</b> 日本"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def template(source: str, **special_tokens: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, special_tokens, now=lambda: datetime(2024, 7, 26, 12))


def test_every_recorded_case() -> None:
    folder = shared_data("chat_templates")
    lines = (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 119
    for case in map(json.loads, lines):
        subject = template(
            (folder / case["template"]).read_text(encoding="utf-8"),
            bos_token=case["bos_token"],
            eos_token=case["eos_token"],
        )
        assert outcome(subject, case) == (case.get("expected") or case["raises"]), (case["template"], case["case"])


def outcome(subject: ChatTemplate, case: dict[str, Any]) -> str:
    given = {name: case[name] for name in ("tools", "add_generation_prompt")}
    try:  # the clock of `template` says what date_string does
        return subject.render(case["messages"], **given)
    except InvalidRequest as error:
        return error.message.partition(": ")[2]


def test_a_rendered_prompt_has_its_bos_already() -> None:
    subject = template("{{ bos_token }}[INST] {{ messages[0].content }} [/INST]", bos_token="<s>")
    ids = tokenizer("llama-spm").encode(subject.render([USER]), add_special_tokens=False)
    assert ids.count(1) == 1
    assert ids[0] == 1


def test_the_clock_and_further_variables() -> None:
    assert template("{{ strftime_now('%d %b %Y') }}").render([]) == "26 Jul 2024"
    assert template("{{ enable_thinking }}{{ messages }}").render([], variables={"enable_thinking": False}) == "False[]"
    assert template("{{ bos_token }}|{{ documents }}").render([]) == "|None"


def test_which_variables_a_template_reads() -> None:
    preset = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    assert template(preset + "{% set mine = 1 %}{{ mine }}{{ thinking }}").variables == {"thinking"}
    assert template("{{ messages[0].thinking }}{{ 'a thinking b' }}{{ messages[0]['x'] }}").variables == {"messages"}
    both = ChatTemplate({"default": "{{ a }}", "tool_use": "{% for b in tools %}{{ b }}{% endfor %}"}, {})
    assert both.variables == {"a", "tools"}
    assert both.default == "{{ a }}"


def test_json_is_written_as_models_know_it() -> None:
    source = "{{ messages[0] | tojson }}|{{ tools | tojson(indent=1, separators=(',', ':')) }}"
    expected = json.dumps(USER, ensure_ascii=False) + "|" + json.dumps([TOOL], indent=1, separators=(",", ":"))
    assert template(source).render([USER], tools=(TOOL,)) == expected


def test_documents_and_names_that_are_set_by_other_means() -> None:
    assert template("{{ documents[0].title }}").render([], documents=[{"title": "a"}]) == "a"
    for name in ("messages", "tools", "documents", "add_generation_prompt"):
        with pytest.raises(InvalidRequest, match=name) as refused:
            template("x").render([], variables={name: 1})
        assert refused.value.field == "template_kwargs"


CONTINUED = [
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}",
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}",
    "{% for m in messages %}{{ m.content }} {% endfor %}",
]


@pytest.mark.parametrize("source", CONTINUED)
@pytest.mark.parametrize("content", ["Once", "Once upon ", "Once\n\n", "a </> b"])
def test_a_final_message_is_continued_as_transformers_does(source: str, content: str) -> None:
    messages = [USER, {"role": "assistant", "content": content}]
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (expected,), _ = utils.render_jinja_template([messages], chat_template=source, continue_final_message=True)
    assert template(source).render(messages, add_generation_prompt=False, continue_final=True) == expected


def test_what_cannot_be_continued_is_refused() -> None:
    for source in ("{{ messages[0].content }}", "{{ messages[-1].content[2:] }}"):
        with pytest.raises(InvalidRequest, match="leaves out"):
            template(source).render([USER, {"role": "assistant", "content": "Once"}], continue_final=True)
    with pytest.raises(InvalidRequest, match="no content"):
        template("x").render([{"role": "assistant", "content": None}], continue_final=True)
    whole = template("{{ messages[0].content * 100 }}").render([{"content": "abc"}], continue_final=True, max_chars=50)
    assert len(whole) > 50


def test_how_the_arguments_of_calls_must_be_spelled() -> None:
    loop = "{% for m in messages %}{% for c in m.tool_calls %}HERE{% endfor %}{% endfor %}"
    for spelled, wants_text in (
        ("{{ c.function.arguments | tojson }}", False),
        ("{{ c.function.arguments.items() }}", False),
        ("{{ 'a' + c.function.arguments }}", True),
        ("{{ 1 / 0 }}", False),
    ):
        assert template(loop.replace("HERE", spelled)).wants_text_arguments is wants_text


def test_loop_controls_blocks_and_generation_marks() -> None:
    source = """\
    {% for message in messages %}
    {% if loop.index > 2 %}{% break %}{% endif %}
{% generation %}{% set said = message.content %}{{ said }}.{% endgeneration %}
    {% endfor %}
"""
    assert template(source).render([{"content": word} for word in "abc"]) == "a.b."
    assert template(source).render([{"content": word} for word in "abc"]) == transformers_render(source, list("abc"))


def transformers_render(source: str, words: list[str]) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    rendered, _ = utils.render_jinja_template([[{"content": word} for word in words]], chat_template=source)
    return str(rendered[0])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__.__mro__ }}",
        "{{ ''.__class__ }}{{ ''.__class__.__subclasses__() }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ strftime_now.__code__.co_consts }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
        "{{ namespace(__class__=1) }}",
        "{{ dict.mro() }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{% include 'x' %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].content.nothing.at_all }}",
        "{{ 1 / 0 }}",
        "{{ messages | tojson(indent=messages) }}",
    ],
)
def test_what_a_template_must_not_do_fails_the_request(source: str) -> None:
    subject = template(source)
    with pytest.raises(InvalidRequest, match="chat template refuses"):
        subject.render([USER])


def test_output_is_bounded() -> None:
    source = "{% for i in range(100000) %}{% for j in range(100000) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}"
    subject = ChatTemplate({"default": source}, {}, max_chars=50_000)
    with pytest.raises(InvalidRequest, match="longer than 50000"):
        subject.render([USER])


def test_loops_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_RENDER_S", 0.05)
    source = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidRequest, match="it takes too long"):
        template(source).render([USER])


def test_namespaces_and_dicts_work() -> None:
    source = "{% set ns = namespace({'a': 1}, b=2) %}{% set ns.a = 5 %}{{ ns.a + ns.b + dict([('c', 1)], d=2).d }}"
    assert template(source).render([]) == "9"


# -- where templates are found -----------------------------------------------------------------------------------------


def load(folder: Path, override: Path | str | None = None) -> ChatTemplate:
    found = ChatTemplate.load(folder, override)
    assert found is not None
    return found


def configure(folder: Path, template: object) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": None, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    configure(tmp_path, None)
    assert ChatTemplate.load(tmp_path) is None
    assert load(tmp_path, "{{ bos_token }}!").render([]) == "<s>!"


def test_named_templates(tmp_path: Path) -> None:
    configure(tmp_path, [{"name": "default", "template": "chat"}, {"name": "tool_use", "template": "tools"}])
    subject = load(tmp_path)
    assert subject.render([USER]) == "chat"
    assert subject.render([USER], tools=[TOOL]) == "tools"
    configure(tmp_path, [{"name": "tool_use", "template": "tools"}])
    with pytest.raises(ConfigError, match="default"):
        load(tmp_path)


def test_a_file_of_its_own_comes_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text('{"chat_template": "old"}')
    assert load(tmp_path).render([]) == "old"
    configure(tmp_path, "config")
    assert load(tmp_path).render([]) == "config"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert load(tmp_path).render([]) == "file"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert load(tmp_path).render([]) == "file"
    assert load(tmp_path).render([], tools=[TOOL]) == "tools"
    (tmp_path / "mine.jinja").write_text("mine")
    assert load(tmp_path, tmp_path / "mine.jinja").render([], tools=[TOOL]) == "mine"
    assert load(tmp_path, str(tmp_path / "mine.jinja")).render([]) == "mine"


def test_a_template_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        load(tmp_path, "{{ a }}\n{% if %}")
    with pytest.raises(ConfigError, match=r"missing\.jinja"):
        load(tmp_path, tmp_path / "missing.jinja")
