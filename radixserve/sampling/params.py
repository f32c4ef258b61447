"""How one request wants its tokens chosen, and when it wants to stop.

``SamplingParams`` is what a caller writes: a field left at None is silent, and the checkpoint's own
``generation_config.json`` answers for it. ``resolve`` fills the silent fields once, at intake;
everything behind intake sees only resolved parameters. No torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec

MAX_STOP_STRINGS = 64
MAX_STOP_STRING_CHARS = 4096
MAX_LOGPROBS = 20
MAX_CHOICES = 64

_NUMBERS: Mapping[str, type[int] | type[float]] = MappingProxyType(
    {
        "n": int,
        "temperature": float,
        "top_k": int,
        "top_p": float,
        "min_p": float,
        "repetition_penalty": float,
        "presence_penalty": float,
        "frequency_penalty": float,
        "seed": int,
        "max_tokens": int,
        "min_tokens": int,
        "logprobs": int,
        "prompt_logprobs": int,
    }
)


class Limits(NamedTuple):
    """The least and the greatest value that a field may have."""

    low: float
    high: float
    open_low: bool = False
    """The least itself is too little."""


LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        "n": Limits(1, MAX_CHOICES),
        "temperature": Limits(0.0, 100.0),
        "top_k": Limits(-1, 2**31 - 1),
        "top_p": Limits(0.0, 1.0, open_low=True),
        "min_p": Limits(0.0, 1.0),
        "repetition_penalty": Limits(0.01, 100.0),
        "presence_penalty": Limits(-2.0, 2.0),
        "frequency_penalty": Limits(-2.0, 2.0),
        "max_tokens": Limits(1, 2**31 - 1),
        "min_tokens": Limits(0, 2**31 - 1),
        "logprobs": Limits(0, MAX_LOGPROBS),
        "prompt_logprobs": Limits(0, MAX_LOGPROBS),
        "seed": Limits(-(2**63), 2**64 - 1),
    }
)
"""Of the numbers among the fields of ``SamplingParams``."""

_FLAGS = ("ignore_eos", "skip_special_tokens", "include_stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What the checkpoint recommends (``generation_config.json``) where a request is silent.

    Without a recommendation: OpenAI's defaults (temperature 1, the whole distribution).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Choice of tokens and end of generation for one request.

    Raises ``InvalidRequestError`` naming the field, on construction, for any value out of range or
    of the wrong type. Numbers of any kind (numpy's too) become ``int`` and ``float``: the engine
    process takes nothing else.
    """

    n: int = 1
    """How many independent continuations of the prompt."""
    temperature: float | None = None
    """0 is greedy; otherwise logits are divided by it. ``None``: the checkpoint's default."""
    top_k: int | None = None
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    top_p: float | None = None
    """Keep the smallest set of most likely tokens whose probabilities reach this sum."""
    min_p: float | None = None
    """Keep tokens at least this fraction as likely as the likeliest one."""
    repetition_penalty: float | None = None
    """Divide (multiply, where negative) the logits of tokens seen in prompt or answer; 1 is off."""
    presence_penalty: float = 0.0
    """Subtract from the logits of tokens already in the answer."""
    frequency_penalty: float = 0.0
    """Subtract, once per occurrence, from the logits of tokens already in the answer."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Add to the logits of these token ids."""
    seed: int | None = None
    """Same seed, same noise at every position, whatever else is in the batch."""
    max_tokens: int | None = None
    """Stop after this many tokens. ``None``: what is left of the context."""
    min_tokens: int = 0
    """Choose no stop token and accept no stop string before this many tokens."""
    stop: tuple[str, ...] = ()
    """Stop before the first of these strings in the answer."""
    stop_token_ids: tuple[int, ...] = ()
    """Stop at any of these tokens, besides the model's own end-of-sequence ids."""
    ignore_eos: bool = False
    """Do not stop at the model's end-of-sequence ids."""
    logprobs: int | None = None
    """Report each chosen token's log-probability and this many alternatives. ``None``: neither."""
    prompt_logprobs: int | None = None
    """The same of each prompt token but the first. Such a prompt is computed whole: what the cache
    holds of it has no logits."""
    grammar: GrammarSpec | None = None
    """Choose only tokens that keep the answer within this language."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text (never out of the token ids)."""
    include_stop: bool = False
    """Leave the matched stop string in the text."""

    def __post_init__(self) -> None:
        stop = _as_tuple("stop", self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", _as_tuple("stop_token_ids", self.stop_token_ids))
        for name, kind in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None or self.__dataclass_fields__[name].default is not None:
                object.__setattr__(self, name, _as_plain(kind, name, value))
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequestError(
                    f"{name} is {getattr(self, name)!r}; it must be True or False", param=name
                )
        for name in LIMITS:
            _check_range(name, getattr(self, name))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens ({self.min_tokens}) is greater than max_tokens ({self.max_tokens}); "
                "lower it or raise max_tokens",
                param="min_tokens",
            )
        _check_stop(stop)
        given: Any = {} if self.logit_bias is None else self.logit_bias
        if not isinstance(given, Mapping):
            raise InvalidRequestError(
                f"logit_bias is {given!r}; it must map token ids to numbers", param="logit_bias"
            )
        biases = {
            token_id: _as_plain(float, "logit_bias", bias) for token_id, bias in given.items()
        }
        object.__setattr__(self, "logit_bias", biases)
        for token_id, bias in biases.items():
            if not -100.0 <= bias <= 100.0:
                raise InvalidRequestError(
                    f"logit_bias of token {token_id} is {bias}; it must lie in [-100, 100]",
                    param="logit_bias",
                )

    def resolve(
        self, defaults: SamplingDefaults, *, max_tokens: int, seed: int
    ) -> "SamplingParams":
        """Fill every silent field, so that nothing behind intake has to know of defaults."""
        return replace(
            self,
            temperature=_first(self.temperature, defaults.temperature),
            top_k=max(0, _first(self.top_k, defaults.top_k)),
            top_p=_first(self.top_p, defaults.top_p),
            min_p=_first(self.min_p, defaults.min_p),
            repetition_penalty=_first(self.repetition_penalty, defaults.repetition_penalty),
            max_tokens=max_tokens,
            seed=_first(self.seed, seed),
        )


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Several entries, none (None), or a string alone."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise InvalidRequestError(f"{name} is {value!r}; it must be a list", param=name)
    return tuple(value)


def _as_plain(kind: type[int] | type[float], name: str, value: Any) -> float:
    """A number of whatever type as an ``int`` (fractions are refused: counting would never meet
    them) or a ``float``."""
    wanted, words = (Integral, "a whole number") if kind is int else (Real, "a number")
    is_number = isinstance(value, wanted) and not isinstance(value, bool)
    if not is_number:
        raise InvalidRequestError(f"{name} holds {value!r}; it must be {words}", param=name)
    try:
        return kind(value)
    except OverflowError:
        raise InvalidRequestError(f"{name} holds a number that is too large", param=name) from None


def _check_stop(stop: tuple[Any, ...]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidRequestError(
            f"stop has {len(stop)} strings; at most {MAX_STOP_STRINGS} are accepted",
            param="stop",
        )
    for string in stop:
        if not isinstance(string, str) or not string:
            raise InvalidRequestError("stop holds an empty or non-string entry", param="stop")
        if len(string) > MAX_STOP_STRING_CHARS:
            raise InvalidRequestError(
                f"a stop string has {len(string)} characters; "
                f"at most {MAX_STOP_STRING_CHARS} are accepted",
                param="stop",
            )


def _check_range(name: str, value: float | None) -> None:
    """Raise unless ``value`` is None or within the limits of its field."""
    if value is None:
        return
    limits = LIMITS[name]
    # `not (low <= value)` also catches NaN, which compares false with everything.
    if not limits.low <= value <= limits.high or (limits.open_low and value == limits.low):
        bracket = "(" if limits.open_low else "["
        raise InvalidRequestError(
            f"{name} is {value}; it must lie in {bracket}{limits.low}, {limits.high}]", param=name
        )
