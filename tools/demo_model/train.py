"""Trains the demonstration model: `python -m tools.demo_model.train --out engine/demo --minutes 28`.

The run is bounded by processor time, not by steps: the learning rate and the context lengths follow the share that is
gone, so a busy machine takes longer but trains as much.
1. Learn the tokenizer from the corpus.
2. Train on short contexts first, then on more and more long ones.
3. Every few minutes write the folder and the loss curve; write both once more at the end.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tools.demo_model.chart import LossPoint, write_chart
from tools.demo_model.corpus import Corpus
from tools.demo_model.folder import write_folder
from tools.demo_model.model import Llama, Shape
from tools.demo_model.packing import PackedBatch, Packer
from tools.demo_model.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rows:
    """The shape of one training step."""

    num_rows: int
    length: int
    learned_share: float  # of the positions: room for the answers in an average row

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.length


SHORT, MIDDLE, LONG, LONGEST = Rows(16, 128, 0.62), Rows(4, 512, 0.62), Rows(1, 2048, 0.56), Rows(1, 4096, 0.56)
PEAK_RATE, FINAL_SHARE, WARM_UP_STEPS = 2e-3, 0.02, 100
LOG_STEPS = 50


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    out: Path
    chart: Path | None
    minutes: float
    checkpoint_minutes: float
    seed: int
    compiled: bool


def parse_options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--chart", type=Path, help="an SVG file for the loss curve")
    parser.add_argument("--minutes", type=float, default=28.0, help="processor time of the training")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0, help="how often to write the folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="do not compile: needs no C++ compiler, is slower")
    found = parser.parse_args()
    return Options(found.out, found.chart, found.minutes, found.checkpoint_minutes, found.seed, not found.eager)


def draw_rows(share: float, random: Random) -> Rows:
    """Single questions first, where the answer is easy to connect; then conversations; at last many long ones."""
    if share < 0.3:
        return SHORT
    weights = (90, 8, 2) if share < 0.6 else (55, 33, 12)
    return random.choices((MIDDLE, LONG, LONGEST), weights)[0]


def learning_rate(share: float, step: int) -> float:
    """Cosine over the time, after a warm-up over the first steps."""
    cosine = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return PEAK_RATE * cosine * min(1.0, (step + 1) / WARM_UP_STEPS)


@dataclass(slots=True)
class Progress:
    """The clock and the loss of the run; processor time, so that a busy machine trains the same model, only later."""

    started_s: float = field(default_factory=time.process_time)
    num_steps: int = 0
    num_tokens: int = 0
    recent: list[float] = field(default_factory=list)
    points: list[LossPoint] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        return (time.process_time() - self.started_s) / 60

    def add(self, loss: float, num_tokens: int) -> None:
        self.num_steps += 1
        self.num_tokens += num_tokens
        self.recent.append(loss)
        if len(self.recent) == LOG_STEPS:
            mean = sum(self.recent) / LOG_STEPS
            self.recent.clear()
            self.points.append(LossPoint(self.minutes, mean))
            speed = self.num_tokens / 60 / self.minutes
            logger.info("minute %5.1f  step %5d  loss %.4f  %5.0f tokens/s", self.minutes, self.num_steps, mean, speed)


class Trainer:
    """Owns the model and its optimizer."""

    def __init__(self, shape: Shape, *, compiled: bool) -> None:
        self.model = Llama(shape)
        self._loss = torch.compile(self.model, dynamic=False) if compiled else self.model
        matrices = [weight for weight in self.model.parameters() if weight.dim() == 2]
        vectors = [weight for weight in self.model.parameters() if weight.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.99), fused=True)

    def step(self, batch: PackedBatch, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = self._loss(batch.token_ids, batch.targets, batch.target_positions)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()


def train(options: Options) -> None:
    torch.manual_seed(options.seed)
    corpus, shape = Corpus(options.seed), Shape()
    tokenizer = train_tokenizer(corpus, shape.vocab_size)
    packer = Packer(corpus, tokenizer)
    trainer = Trainer(shape, compiled=options.compiled)
    logger.info("%d parameters", sum(weight.numel() for weight in trainer.model.parameters()))
    choices, progress, saved_minutes = Random(options.seed), Progress(), 0.0
    while (share := progress.minutes / options.minutes) < 1:
        rows = draw_rows(share, choices)
        batch = packer.batch(rows.num_rows, rows.length, rows.learned_share)
        progress.add(trainer.step(batch, learning_rate(share, progress.num_steps)), rows.num_tokens)
        if progress.minutes - saved_minutes > options.checkpoint_minutes:
            saved_minutes = progress.minutes
            save(options, trainer.model, shape, tokenizer, progress)
    save(options, trainer.model, shape, tokenizer, progress)
    logger.info("done: %.1f minutes, %d steps, %d tokens", progress.minutes, progress.num_steps, progress.num_tokens)


def save(options: Options, model: Llama, shape: Shape, tokenizer: Tokenizer, progress: Progress) -> None:
    write_folder(options.out, model, shape, tokenizer)
    if options.chart is not None and progress.points:
        write_chart(options.chart, progress.points, "Training loss of the demonstration model")


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parse_options())


if __name__ == "__main__":
    main()
