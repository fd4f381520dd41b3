"""A whole step on the GPU without a word from it: a step may begin with tokens that the one before has yet to draw."""

from dataclasses import dataclass

from engine.batch import Batch
from engine.gpu.runner import GpuRunner
from engine.gpu.sampler import Continued, GpuSampler
from engine.steps import Pending


@dataclass(frozen=True, slots=True)
class GpuLaunch:
    """`Launch` of `engine/steps.py`. All is work of one stream, and so in order."""

    runner: GpuRunner
    sampler: GpuSampler

    def __call__(self, batch: Batch, before: Pending | None) -> Pending:
        logits = self.runner(batch, None if before is None else before.token_ids)
        samples = batch.continued_samples
        continued = None if before is None or samples is None else Continued(before.token_ids, samples)
        return self.sampler.launch(logits, batch.sampled, batch.indices, continued)
