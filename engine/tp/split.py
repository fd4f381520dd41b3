"""Which part of a model each rank computes: some heads of every layer, some of its MLP, some of the vocabulary.

    q, k, v, gate, up, head    some rows: outputs that no other rank has
    o, down                    the columns that take those outputs: ranks' results are summed
    embedding, norms           whole, on every rank

Where there are more ranks than KV heads, ranks whose queries share a KV head all have it, and write the same keys and
values. Knows numbers, names of tensors, and how columns of ranks are one again. Does not know files or processes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from engine.errors import ConfigError
from engine.models.spec import ModelSpec


def share(total: int, rank: int, size: int) -> slice:
    """The rank's part of `total` things: parts differ by one at most."""
    return slice(total * rank // size, total * (rank + 1) // size)


def widened(part: torch.Tensor, num_columns: int, size: int) -> torch.Tensor:
    """One rank's columns as wide as the widest rank's, for groups that move parts of one size; contiguous."""
    missing = -(-num_columns // size) - part.shape[1]
    return F.pad(part, (0, missing)) if missing > 0 else part.contiguous()


def joined(parts: Iterable[torch.Tensor], num_columns: int, size: int) -> torch.Tensor:
    """All columns, of the ranks' widened parts in order."""
    shares = [share(num_columns, rank, size) for rank in range(size)]
    return torch.cat([each[:, : its.stop - its.start] for each, its in zip(parts, shares, strict=True)], 1)


@dataclass(frozen=True, slots=True)
class Split:
    """One rank's part of `spec`."""

    spec: ModelSpec
    rank: int
    size: int

    @classmethod
    def of(cls, spec: ModelSpec, rank: int, size: int) -> "Split":
        """Raises ConfigError, with the numbers, for what cannot be split."""
        for count, what in ((spec.num_heads, "attention heads"), (spec.mlp_size, "columns of the MLP")):
            if count % size:
                raise _refuse(size, f"does not divide the {count} {what} of this {spec.architecture}")
        if spec.num_kv_heads % size and size % spec.num_kv_heads:
            raise _refuse(size, f"neither divides the {spec.num_kv_heads} KV heads of this model nor is a multiple")
        if size > 1 and spec.matrices is not None:
            raise _refuse(size, "cannot divide a checkpoint whose matrices are quantized")
        if spec.vocab_size < size:
            raise _refuse(size, f"is more than the vocabulary's {spec.vocab_size} tokens")
        return cls(spec, rank, size)

    @property
    def heads(self) -> slice:
        return share(self.spec.num_heads, self.rank, self.size)

    @property
    def kv_heads(self) -> slice:
        """Those that its heads attend to."""
        group, heads = self.spec.num_heads // self.spec.num_kv_heads, self.heads
        return slice(heads.start // group, (heads.stop - 1) // group + 1)

    @property
    def mlp(self) -> slice:
        return share(self.spec.mlp_size, self.rank, self.size)

    @property
    def vocab(self) -> slice:
        return share(self.spec.vocab_size, self.rank, self.size)

    @property
    def part(self) -> ModelSpec:
        """What this rank computes, as if it were a model."""
        return replace(
            self.spec,
            num_heads=_count(self.heads),
            num_kv_heads=_count(self.kv_heads),
            mlp_size=_count(self.mlp),
            vocab_size=_count(self.vocab),
        )

    def of_tensor(self, name: str) -> tuple[slice, ...] | None:
        """What this rank has of a tensor of the checkpoint: () is all of it, None is nothing. Raises ConfigError for
        one that holds weights in a form that cannot be cut so."""
        if self.size == 1:
            return ()
        module, kind = name.split(".")[-2:]
        queries, keys = self._numbers(self.heads), self._numbers(self.kv_heads)
        rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": self.mlp, "up_proj": self.mlp}
        rows["lm_head"] = self.vocab
        columns = {"o_proj": queries, "down_proj": self.mlp}
        if module not in rows and module not in columns:
            return ()
        if kind not in ("weight", "bias"):
            raise _refuse(self.size, f"cannot divide {name}")
        if module in rows:
            return (rows[module],)
        if kind == "bias":
            return () if self.rank == 0 else None  # it is added once
        return (slice(None), columns[module])

    def _numbers(self, heads: slice) -> slice:
        return slice(heads.start * self.spec.head_dim, heads.stop * self.spec.head_dim)


def _count(part: slice) -> int:
    count: int = part.stop - part.start
    return count


def _refuse(size: int, why: str) -> ConfigError:
    return ConfigError(f"tensor_parallel is {size}, which {why}", field="tensor_parallel")
