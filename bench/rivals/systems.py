"""The systems that are compared, each in the arrangements and with the settings that suit it best."""

from bench.rivals.models import Models
from bench.rivals.servers import System, llama_cpp, tandem, transformers, vllm

KV = ("--kv-memory-mb", "512")
"""Of each Tandem worker: room for more than any run here needs."""
UNIFIED = ("--prefill", "0")
SHARED = ("--prefill", "1", "--decode", "1")
SPLIT = (*SHARED, "--cores", "split", "--borrow", "none")
LENT = (*SHARED, "--cores", "split", "--borrow", "prefill")
LENT_BOTH = (*SHARED, "--cores", "split", "--borrow", "both")
ARRANGEMENTS = {
    "unified": UNIFIED,
    "1P1D": SHARED,
    "1P1D split": SPLIT,
    "1P1D lent": LENT,
    "1P1D lent both": LENT_BOTH,
}
"""Both cores for everybody; a core for each role; or that, and a core whose role has no work lent to the other: to
prefill, or to either."""
PRECISIONS = {
    "f32": (),
    "int8": ("--quantization", "int8", "--kv-cache-dtype", "float16"),
}
"""KV of 16 bits beside int8, as llama.cpp (always) and vLLM's W8A8 (which needs bfloat16 for the rest) have it."""
CONTEXT = ("--max-model-len", "2048")


def tandems(models: Models, precision: str, *arrangements: str, kv: tuple[str, ...] = KV) -> list[System]:
    found = []
    for arrangement in arrangements:
        options = (*ARRANGEMENTS[arrangement], *PRECISIONS[precision], *kv)
        found.append(tandem(models.float32, *options, name=f"tandem {precision} {arrangement}"))
    return found


def vllms(models: Models, precision: str, *chunks: int, kv_gib: int = 2) -> list[System]:
    """One for each `--max-num-batched-tokens`; 0 leaves vLLM its own."""
    is_float = precision == "f32"
    model, dtype = (models.float32, "float32") if is_float else (models.w8a8, "bfloat16")
    found = []
    for chunk in chunks:
        tuned = ("--max-num-batched-tokens", str(chunk)) if chunk else ()
        name = f"vllm {precision} chunk {chunk}" if chunk else f"vllm {precision}"
        found.append(vllm(model, *CONTEXT, *tuned, name=name, kv_gib=kv_gib, dtype=dtype))
    return found


def llamas(models: Models, slots: int, slot_tokens: int) -> list[System]:
    files = {"f32": models.gguf_float32, "Q8_0": models.gguf_q8_0}
    return [llama_cpp(file, slots, slot_tokens, name=f"llama.cpp {kind}") for kind, file in files.items()]


def transformers_f32(models: Models) -> System:
    """Room for 32 requests of 1,280 positions, as llama.cpp has it."""
    return transformers(models.float32, 160, name="transformers f32")


def is_rival(system: str) -> bool:
    return not system.startswith("tandem")
