"""What an answer says of how it was generated, and `/props` of how one is by default. Does not know prompts."""

import msgspec

from frontend.request import GenerateRequest
from frontend.rest.llamacpp.answer_types import LlamaGenerationSettings, LlamaLogitBias, LlamaSettings
from frontend.rest.llamacpp.parse import RANDOM_SEEDS, Ask
from frontend.rest.llamacpp.request_types import LlamaSampling
from frontend.rest.llamacpp.samplers import Chain
from frontend.rest.llamacpp.sampling import Numbers


def default_settings() -> LlamaSettings:
    given, chain = LlamaSampling(), Chain()
    numbers = Numbers.of(given, chain)
    return _settings(given, chain, numbers, numbers.request(chain, None), seed=RANDOM_SEEDS[-1])


def settings_of(ask: Ask, generation: GenerateRequest) -> LlamaGenerationSettings:
    common = _settings(ask.given, ask.chain, ask.numbers, generation, seed=generation.seed or 0)
    return LlamaGenerationSettings(
        **msgspec.structs.asdict(common),
        stop=generation.stop,
        logit_bias=[LlamaLogitBias(bias, token) for token, bias in generation.logit_bias.items()],
        grammar=generation.grammar.text if generation.grammar else "",
    )


def _settings(
    given: LlamaSampling, chain: Chain, numbers: Numbers, generation: GenerateRequest, *, seed: int
) -> LlamaSettings:
    length = -1 if generation.max_tokens is None else generation.max_tokens
    return LlamaSettings(
        seed=seed,
        temperature=numbers.temperature,
        top_k=numbers.top_k,
        top_p=numbers.top_p,
        min_p=numbers.min_p,
        repeat_last_n=0 if given.repeat_last_n == 0 else -1,
        repeat_penalty=numbers.repeat_penalty,
        presence_penalty=numbers.presence_penalty,
        frequency_penalty=numbers.frequency_penalty,
        max_tokens=length,
        n_predict=length,
        ignore_eos=generation.ignore_eos,
        stream=bool(given.stream),
        n_probs=generation.logprobs or 0,
        samplers=chain.names,
    )
