"""The shapes that are measured, and what they cost at least in bytes and operations."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of the Llama kind with bfloat16 weights."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    vocab_size: int
    tied_embeddings: bool = False

    @property
    def qkv_size(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Numbers in the products of one layer."""
        attention = self.hidden_size * (self.qkv_size + self.num_heads * self.head_dim)
        return attention + 3 * self.hidden_size * self.mlp_size

    @property
    def step_weight_bytes(self) -> int:
        """Of the weights that a step reads: all but the embeddings, of which it takes a row a sequence."""
        return 2 * (self.num_layers * self.layer_weights + self.vocab_size * self.hidden_size)

    @property
    def eight_bit_step_weight_bytes(self) -> int:
        """The same where the layers' weights are of eight bits, and the head is bfloat16."""
        return self.step_weight_bytes - self.num_layers * self.layer_weights

    @property
    def weight_bytes(self) -> int:
        return self.step_weight_bytes + (0 if self.tied_embeddings else 2 * self.vocab_size * self.hidden_size)

    @property
    def eight_bit_weight_bytes(self) -> int:
        """Of the whole model then."""
        return self.weight_bytes - self.num_layers * self.layer_weights

    @property
    def position_bytes(self) -> int:
        """Of KV in all layers."""
        return 2 * 2 * self.num_layers * self.num_kv_heads * self.head_dim

    def prefill_flops(self, num_tokens: int) -> float:
        """Of one prompt without a cached prefix; logits of its last token alone."""
        products = 2 * num_tokens * self.num_layers * self.layer_weights + 2 * self.vocab_size * self.hidden_size
        return products + self.num_layers * attention_flops(self.num_heads, self.head_dim, num_tokens, 0)

    def tiny(self) -> "Shape":
        """For a dry run."""
        few = replace(self, num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=64, mlp_size=128)
        return replace(few, vocab_size=256)


def attention_flops(num_heads: int, head_dim: int, num_tokens: int, prefix: int) -> float:
    """Of causal attention behind `prefix` cached positions: two products for every pair that is visible."""
    pairs = num_tokens * prefix + num_tokens * (num_tokens + 1) / 2
    return 4.0 * num_heads * head_dim * pairs


LLAMA_8B = Shape("8B", 32, 4096, 32, 8, 128, 14336, 128_256)
LLAMA_1B = Shape("1B", 16, 2048, 32, 8, 64, 8192, 128_256, tied_embeddings=True)
