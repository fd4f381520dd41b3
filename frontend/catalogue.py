"""The models that one frontend serves: by every name that requests may call them, and which answers for which.

A model that no decode worker serves now is answered for by the first of its fallbacks that has one. Not in everything:
tokens and vectors mean something to one model alone, and a key that may not ask a model gets no answer of it either.
"""

from collections.abc import Iterator, Sequence

from engine.errors import ConfigError, UnknownModel
from frontend.request import GenerateRequest, TokenPrompt
from frontend.served import Served


class Catalogue:
    """Models by name. The first is the default: for requests that name none, and for any name if it takes that."""

    def __init__(self, models: Sequence[Served]) -> None:
        """Raises ConfigError where two have one name, and where nobody is called as a fallback is."""
        self.default = models[0]
        self._models = tuple(models)
        self._by_name: dict[str, Served] = {}
        for served in models:
            for name in (served.name, *served.model.aliases):
                if name in self._by_name:
                    raise ConfigError(f"two models are called {name!r}", field="model")
                self._by_name[name] = served
        for served in models:
            for name in served.model.fallback:
                if self._by_name.get(name, served) is served:
                    why = "nobody is called so" if name not in self._by_name else "that is itself"
                    raise ConfigError(f"{served.name!r} cannot fall back on {name!r}: {why}", field="fallback")

    def __iter__(self) -> Iterator[Served]:
        """The default first."""
        return iter(self._models)

    def find(self, name: str | None) -> Served | None:
        if not name:
            return self.default
        return self._by_name.get(name) or (self.default if self.default.model.takes_any_name else None)

    def named(self, name: str | None) -> Served:
        """Raises UnknownModel."""
        if (served := self.find(name)) is None:
            have = " and ".join(repr(each.name) for each in self._models)
            verb = "is" if len(self._models) == 1 else "are"
            raise UnknownModel(f"the model {name!r} is not served here; {have} {verb}", field="model")
        return served

    def beside(self, served: Served) -> frozenset[str]:
        """The names of the other models, as workers have them."""
        return frozenset(each.name for each in self._models if each is not served)

    def standing_in(self, asked: Served, request: GenerateRequest) -> list[Served]:
        """Who may answer a request for `asked`, in their order; nobody while a decode worker of its own can."""
        if not asked.model.fallback or asked.takes_requests or _is_for_one_model(request):
            return []
        others = (self._by_name[name] for name in asked.model.fallback)
        return [other for other in others if other.takes_requests and request.caller.may_ask(other.name)]


def _is_for_one_model(request: GenerateRequest) -> bool:
    """Whether it has tokens of a vocabulary in it, or wants a vector."""
    has_tokens = isinstance(request.prompt, TokenPrompt) or bool(request.logit_bias or request.stop_token_ids)
    return has_tokens or request.pooling is not None
