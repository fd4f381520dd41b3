# ruff: noqa: T201  a command line tool: its table is its output
"""Asks the finished folder questions, as anybody would load it: `python -m tools.demo_model.evaluate engine/demo`.

1. The ten examples, answered greedily in float32; fewer than nine right is a failure.
2. Phrasings that were kept out of training; right means equal to the written answer.
3. Examples and the user's name, at the end of a conversation of thousands of tokens.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.demo_model.cases import Case, after_a_past, examples, held_out
from tools.demo_model.corpus import Corpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tools.demo_model.dialogue import Message

MAX_ANSWER_TOKENS = 200
BATCH = 32
EVALUATION_SEED = 20_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one case."""

    case: Case
    text: str
    ended: bool

    @property
    def right(self) -> bool:
        return self.ended and self.case.accepts(self.text)


class Model:
    """The folder, loaded with transformers in float32."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.train(mode=False)
        self._end_ids = set(self._model.generation_config.eos_token_id)

    def count_tokens(self, messages: list[Message]) -> int:
        return len(self._tokenizer.encode(self._render(messages), add_special_tokens=False))

    def answer(self, cases: Sequence[Case]) -> Iterator[Answer]:
        """Answer cases of similar length together."""
        ordered = sorted(cases, key=lambda case: sum(len(message.text) for message in case.messages))
        at = 0
        while at < len(ordered):
            size = BATCH if len(ordered[at].messages) == 1 else 1
            yield from self._answer_together(ordered[at : at + size])
            at += size

    def _answer_together(self, cases: Sequence[Case]) -> Iterator[Answer]:
        prompts = self._tokenizer([self._render(case.messages) for case in cases], return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = self._model.generate(  # type: ignore[misc]  # its stubs bind self to another class
                **prompts, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False
            )
        for case, ids in zip(cases, output[:, prompts["input_ids"].shape[1] :].tolist(), strict=True):
            length = next((at for at, token_id in enumerate(ids) if token_id in self._end_ids), None)
            yield Answer(case, str(self._tokenizer.decode(ids[:length])).strip(), ended=length is not None)

    def _render(self, messages: Sequence[Message]) -> str:
        chat = [{"role": message.role, "content": message.text} for message in messages]
        return str(self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))


def print_shares(answers: Sequence[Answer]) -> None:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.case.group].append(answer)
    for group, members in groups.items():
        num_right, num_ended = (sum(getattr(answer, name) for answer in members) for name in ("right", "ended"))
        print(f"{group:26} {num_right:4d} of {len(members):4d} right   {num_ended:4d} ended")


def print_wrong(answers: Sequence[Answer]) -> None:
    for answer in answers:
        if not answer.right:
            print(f"  {answer.case.group}: {answer.case.question}\n    {answer.text!r}")


def main() -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("engine/demo"))
    parser.add_argument("--past-tokens", type=int, nargs="*", default=[2000, 3500])
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(options.folder)

    shown = list(model.answer(examples()))
    for answer in shown:
        print(f"[{'right' if answer.right else 'WRONG'}] {answer.case.question}\n{answer.text}\n")
    asked = list(model.answer(held_out(Corpus(EVALUATION_SEED))))
    for past_tokens in options.past_tokens:
        asked += model.answer(after_a_past(Corpus(EVALUATION_SEED), past_tokens, model.count_tokens))
    if options.wrong:
        print_wrong(asked)

    print_shares([*shown, *asked])
    phrasings = [answer for answer in asked if len(answer.case.messages) == 1]
    print(f"{'all held-out phrasings':26} {sum(answer.right for answer in phrasings):4d} of {len(phrasings):4d} right")
    return 0 if sum(answer.right for answer in shown) >= 9 else 1


if __name__ == "__main__":
    sys.exit(main())
