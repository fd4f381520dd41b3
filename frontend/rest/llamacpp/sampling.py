"""The numbers of a request's samplers, with llama.cpp's defaults. Does not know the other parameters."""

from dataclasses import dataclass

from frontend.fields import UnsupportedParameter
from frontend.request import GenerateRequest
from frontend.rest.llamacpp.request_types import LlamaSampling
from frontend.rest.llamacpp.samplers import Chain

NO_PENALTIES = (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """As the request means them; those of samplers that it does not have are off."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float

    @classmethod
    def of(cls, given: LlamaSampling, chain: Chain) -> "Numbers":
        repeat, presence, frequency = _penalties(given, chain)
        return cls(
            temperature=_or(given.temperature, 0.8) if "temperature" in chain else 1.0,
            top_k=int(_or(given.top_k, 40)) if "top_k" in chain else 0,
            top_p=_or(given.top_p, 0.95) if "top_p" in chain else 1.0,
            min_p=_or(given.min_p, 0.05) if "min_p" in chain else 0.0,
            repeat_penalty=repeat,
            presence_penalty=presence,
            frequency_penalty=frequency,
        )

    def request(self, chain: Chain, model: str | None) -> GenerateRequest:
        """For an answer that is sampled so, to a prompt that is still to come."""
        return GenerateRequest(
            prompt="",
            model=model,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=chain.min_p_after_temperature(self.min_p, self.temperature),
            repetition_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )


def _penalties(given: LlamaSampling, chain: Chain) -> tuple[float, float, float]:
    if "penalties" not in chain or given.repeat_last_n == 0:
        return NO_PENALTIES
    penalties = _or(given.repeat_penalty, 1.0), _or(given.presence_penalty, 0.0), _or(given.frequency_penalty, 0.0)
    if penalties != NO_PENALTIES and given.repeat_last_n not in (None, -1):
        raise UnsupportedParameter(
            "repeat_last_n is not supported by this server: penalties cover the whole text, which is -1",
            field="repeat_last_n",
        )
    return penalties


def _or(given: float | None, default: float) -> float:
    return default if given is None else given
