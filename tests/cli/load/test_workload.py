import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.load.client import ServedModel
from cli.load.config import LoadConfig, TargetConfig
from cli.load.prompts import random_length, read_texts
from cli.load.workload import Workload, build
from engine.errors import ConfigError

MODEL = ServedModel("fake", vocab=50)


def built(model: ServedModel = MODEL, *, endpoint: str = "completions", **fields: object) -> Workload:
    target = TargetConfig(url="http://fake", endpoint=endpoint)  # type: ignore[arg-type]
    return build(LoadConfig(target=target, **fields), model)  # type: ignore[arg-type]


def test_random_prompts_have_the_asked_lengths_a_common_prefix_and_ids_of_the_vocabulary() -> None:
    work = built(num_prompts=20, input_len=30, output_len=7, prefix_len=10, num_warmups=2)
    assert {(len(job.prompt), job.output_tokens) for job in work.jobs} == {(40, 7)}
    assert len({job.prompt[:10] for job in work.jobs}) == 1
    assert len({job.prompt for job in work.jobs}) == 20
    ids = {token for job in work.jobs for token in job.prompt}
    assert ids <= set(range(50))
    assert len(ids) > 40
    assert work.warmups[0].prompt[:10] != work.jobs[0].prompt[:10], "a warm-up teaches no prefix cache"


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    assert built(num_prompts=3) == built(num_prompts=3)
    assert built(num_prompts=3, seed=1).jobs[0].prompt != built(num_prompts=3).jobs[0].prompt


@given(length=st.integers(1, 1000), ratio=st.floats(0, 0.99), seed=st.integers(0, 100))
def test_lengths_stay_in_their_range(length: int, ratio: float, seed: int) -> None:
    drawn = random_length(np.random.default_rng(seed), length, ratio)
    assert max(1, length * (1 - ratio) - 1) <= drawn <= length * (1 + ratio) + 1


def test_the_vocabulary_is_the_servers_unless_asked_otherwise_and_said_to_be_assumed_where_it_is() -> None:
    assert built().vocab == 50
    assert built(vocab=20).vocab == 20
    unknown = built(ServedModel("fake"))
    assert unknown.vocab == 32_000
    assert "assumed" in unknown.notes[0]
    with pytest.raises(ConfigError, match="vocabulary is 50"):
        built(vocab=51)


def test_texts_are_taken_in_turn_from_plain_files_and_json(tmp_path: Path) -> None:
    plain, lines = tmp_path / "p.txt", tmp_path / "p.jsonl"
    plain.write_text("one\n\ntwo\n")
    lines.write_text("\n".join(json.dumps(v) for v in ("a", {"prompt": "b"}, {"turns": ["c", "d"]}, {"question": "e"})))
    assert read_texts(lines) == ["a", "b", "c", "e"]
    work = built(endpoint="chat", prompts=plain, num_prompts=3)
    assert [job.prompt for job in work.jobs] == ["one", "two", "one"]
    assert "1 requests repeat a text: a prefix cache knows them" in work.notes
    assert work.warmups[0].prompt not in ("one", "two")


@pytest.mark.parametrize("line", ["{", "5", "{}", '{"text": 5}', "[]", '""'])
def test_a_line_that_is_no_prompt_is_refused_by_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'"fine"\n{line}\n')
    with pytest.raises(ConfigError, match="line 2"):
        read_texts(path)


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"endpoint": "chat"}, "--prompts"),
        ({"burstiness": 0.5}, "--burstiness"),
        ({"num_prompts": 0}, "--num-prompts"),
        ({"concurrency": 0}, "--concurrency"),
        ({"range_ratio": 1.0}, "--range-ratio"),
        ({"request_rate": 0.0}, "--request-rate"),
    ],
)
def test_configs_that_mean_nothing_are_refused_by_name(fields: dict[str, object], option: str) -> None:
    with pytest.raises(ConfigError) as refused:
        built(**fields)  # type: ignore[arg-type]
    assert refused.value.field == option
