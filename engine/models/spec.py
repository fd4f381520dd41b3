"""What a decoder computes, complete: every default of a checkpoint's config.json is resolved here.

Knows numbers and flags. Does not know files, tensors or which family a model came from.
"""

from dataclasses import dataclass
from enum import Enum


class RopeKind(Enum):
    """How the frequencies of rotary embeddings are stretched; the values are the names in config.json."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary position embeddings over the whole head dimension, first half paired with second."""

    theta: float
    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    original_max_context: int = 0
    """Context before stretching; read by llama3 and yarn."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0
    """Multiplies cos and sin; not 1 for yarn only."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


class Packing(Enum):
    """Who packed weights of four bits; the values are the names in config.json."""

    AWQ = "awq"
    GPTQ = "gptq"


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBitSpec:
    """How the matrices of all layers are stored: weights of four bits, with a scale and a zero for every output and
    group of inputs."""

    packing: Packing
    group_size: int | None
    """Inputs of a group; None: all of them are one."""
    zeros_less_one: bool = False
    """Zeros are stored less one."""
    needs_order: bool = False
    """A tensor must say which group each input is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EightBitSpec:
    """How the matrices of all layers are stored: weights of eight bits with scales."""

    is_float: bool
    """float8 e4m3; else int8."""
    per_output: bool
    """A scale for each output; else one for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One decoder-only transformer of the Llama kind."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rms_eps: float
    rope: RopeSpec
    max_context: int
    """Positions at most, prompt and output together."""
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm of every query and key head before rotation."""
    activation: str = "silu"
    sliding_window: int | None = None
    """Positions that a sliding layer attends to, the query's own included; None when no layer slides."""
    sliding_layers: frozenset[int] = frozenset()
    source_dtype: str | None = None
    """Type the checkpoint says it was saved in, as torch spells it."""
    matrices: FourBitSpec | EightBitSpec | None = None
    """None where matrices are stored as numbers of one type."""

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Weights and biases, each counted once; of quantized matrices, the numbers that they stand for."""
        hidden, query, kv = self.hidden_size, self.query_size, self.kv_size
        attention = 2 * hidden * query + 2 * hidden * kv
        attention += (query + 2 * kv) * self.qkv_bias + hidden * self.output_bias + 2 * self.head_dim * self.qk_norm
        mlp = 3 * hidden * self.mlp_size + (2 * self.mlp_size + hidden) * self.mlp_bias
        embeddings = self.vocab_size * hidden * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * (attention + mlp + 2 * hidden) + hidden

    def window(self, layer: int) -> int | None:
        """How many positions `layer` attends to; None means all."""
        return self.sliding_window if layer in self.sliding_layers else None
