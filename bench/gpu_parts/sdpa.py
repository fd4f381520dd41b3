"""What torch's flash attention takes on contiguous queries, keys and values, one KV head a query head."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu_parts.bench import Bench


def flash_ms(bench: Bench, num_heads: int, head_dim: int, num_tokens: int, prefix: int) -> tuple[float, str]:
    """Its time, and what was timed."""
    queries = torch.randn(1, num_heads, num_tokens, head_dim, dtype=torch.bfloat16)
    keys, values = torch.randn(2, 1, num_heads, prefix + num_tokens, head_dim, dtype=torch.bfloat16)

    def plain(end: int, *, is_causal: bool) -> None:
        F.scaled_dot_product_attention(queries, keys[:, :, :end], values[:, :, :end], is_causal=is_causal)

    def shifted() -> None:
        """Its last key is the last query's own: what this operation means by causal, and the function does not."""
        torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, True)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION if bench.device.type == "cuda" else SDPBackend.MATH):
        if not prefix:
            return bench.median_ms([lambda: plain(num_tokens, is_causal=True)]), "torch's flash attention"
        if bench.device.type == "cuda":
            try:
                return bench.median_ms([shifted]), "torch's flash attention"
            except (RuntimeError, TypeError):  # it is no public operation
                bench.synchronize()
        parts = [bench.median_ms([lambda: plain(prefix, is_causal=False)])]
        parts.append(bench.median_ms([lambda: plain(num_tokens, is_causal=True)]))
        return sum(parts), "torch's flash attention in two parts, not joined"
