import json

import numpy as np
import pytest

from bench.quality import Setting, forced_logits, quality, read_llama
from tests.shared_data import shared_data

_SLOW = Setting(True, "float32"), Setting(False, "int8")
SURE = 0.5
"""A token whose logit leads the second's by more is the same in int8. The float32 goldens' median lead is 2 to 5."""


@pytest.mark.parametrize(
    "setting",
    [Setting(True, "int8"), *(pytest.param(each, marks=pytest.mark.slow) for each in _SLOW)],
    ids=str,
)
@pytest.mark.parametrize(
    ("model", "golden"),
    [
        ("stories260K", "golden_greedy.json"),
        pytest.param("stories260K", "golden_long.json", marks=pytest.mark.slow),
        pytest.param("babyllama105", "golden_greedy.json", marks=pytest.mark.slow),
    ],
)
def test_int8_leaves_the_goldens_only_where_they_are_unsure(model: str, golden: str, setting: Setting) -> None:
    folder = shared_data("models", model)
    same = total = 0
    for case in json.loads((folder / golden).read_text())["cases"]:
        prompt, output = case["prompt_ids"], np.array(case["output_ids"])
        logits = forced_logits(folder, setting, [prompt + output.tolist()], len(prompt))[0]
        differs = logits.argmax(-1) != output
        assert (np.array(case["margin"])[differs] < SURE).all()
        same, total = same + int((~differs).sum()), total + len(output)
    assert same / total >= 0.975


def test_half_precision_kv_keeps_every_golden_token() -> None:
    folder = shared_data("models", "stories260K")
    for case in json.loads((folder / "golden_long.json").read_text())["cases"]:
        ids = case["prompt_ids"] + case["output_ids"]
        logits = forced_logits(folder, Setting(kv_cache_dtype="float16"), [ids], len(case["prompt_ids"]))[0]
        assert logits.argmax(-1).tolist() == case["output_ids"]


def test_quality_agrees_with_what_is_counted_by_hand() -> None:
    reference = np.log(np.array([[0.5, 0.5 - 1e-9], [0.75, 0.25]]))
    of = quality(np.log(np.array([[0.6, 0.4], [0.25, 0.75]])), reference, np.array([0, 1]))
    assert of.perplexity == pytest.approx((0.6 * 0.75) ** -0.5)
    assert of.agreement == 0.5
    by_hand = (0.5 * np.log(0.5 / 0.6) + 0.5 * np.log(0.5 / 0.4) + 0.5 * np.log(3)) / 2
    assert of.divergence == pytest.approx(by_hand, rel=1e-6)


def test_both_reports_of_llama_perplexity_are_read() -> None:
    assert read_llama("Final estimate: PPL = 28.4648 +/- 0.5").perplexity == 28.4648
    printed = "Mean PPL(Q)    :  28.46 ± 0.5\nMean    KLD:   0.001275 ± 0.00001\nSame top p: 97.580 ± 0.1 %"
    of = read_llama(printed)
    assert (of.perplexity, of.divergence, of.agreement) == (28.46, 0.001275, pytest.approx(0.9758))
