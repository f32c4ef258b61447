"""The offline API: prompts in, answers out, in this process.

    from radixserve import LLM, SamplingParams

    with LLM("path/to/checkpoint") as llm:
        outputs = llm.generate(["Once upon a time"], SamplingParams(max_tokens=32))
        print(outputs[0].text, outputs[0].num_cached_tokens)

The same core, scheduler and cache as the server's, without the process and without HTTP. The cache
lives as long as the ``LLM``: prompts of a later call find the prefixes of earlier ones. With
``cache_dir`` it outlives it: what one ``LLM`` has computed, the next one on that directory loads.
"""

import gc
import logging
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self, cast

from tqdm import tqdm

from radixserve.config import DEMO_MODEL, EngineConfig
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.engine.intake import Intake
from radixserve.errors import ConfigError, InvalidRequestError, RadixServeError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.stream import ChoiceText
from radixserve.text.tokenizer import Tokenizer, has_tokenizer
from radixserve.types import (
    CacheExplanation,
    CacheInfo,
    CacheReport,
    CacheStats,
    EngineInfo,
    EngineStats,
    FinishReason,
    TokenDelta,
    TokenLogprob,
)

logger = logging.getLogger(__name__)

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


@dataclass(slots=True)
class ChoiceOutput:
    """One continuation of a prompt."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    """Everything generated, the token that ended it included."""
    logprobs: list[TokenLogprob] | None = None
    """One entry per token id, if asked for."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string or stop token id of the request that ended it, if one did."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The answer to one prompt. With ``n > 1`` the properties speak of the first choice."""

    prompt_ids: list[int]
    choices: list[ChoiceOutput]
    num_cached_tokens: int
    """Prompt tokens that were in the cache and were not computed."""
    cache_report: CacheReport
    """Where the prompt's tokens came from, and why no more of them from the cache."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """One entry per prompt token, the first one None, if asked for."""

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.choices[0].token_ids

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        return self.choices[0].logprobs

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.choices[0].finish_reason

    @property
    def stop_reason(self) -> int | str | None:
        return self.choices[0].stop_reason


class GenerationError(RadixServeError):
    """The engine could not finish an answer; the message says why."""


class LLM:
    """A model, its cache and its scheduler, in this process. Not thread-safe.

    ``model`` and every keyword are fields of ``EngineConfig``, which documents them. A checkpoint
    without a tokenizer takes token ids only, and its answers have no text. *Raises*
    ``ConfigError`` or ``ModelError`` if it cannot start.
    """

    def __init__(self, model: str = DEMO_MODEL, **settings: Any) -> None:
        for name, value in settings.items():
            if isinstance(value, os.PathLike):
                settings[name] = os.fspath(value)
        try:
            config = EngineConfig(model=str(model), **settings)
        except TypeError as error:
            raise ConfigError(f"unknown setting: {error}") from error
        core = build_core(config, progress=False)
        self._core: EngineCore | None = core
        # Also if nobody closes this: the last pages reach the disk before the interpreter ends.
        self._end = weakref.finalize(self, core.close)
        self.info: EngineInfo = core.info
        directory = self.info.model_dir
        self._has_text = has_tokenizer(directory)
        if self._has_text:
            self.tokenizer = Tokenizer.from_dir(directory, chat_template=config.chat_template)
        else:
            logger.warning("%s has no tokenizer: token ids in, token ids out", config.model)
            self.tokenizer = Tokenizer.empty()
        self._intake = Intake(self.info, self.tokenizer, self._core.grammars)
        self._num_requests = 0

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Continue every prompt (text, or token ids), all together; one output each, in order.

        ``params``: one for all, or one per prompt. *Raises* ``InvalidRequestError`` before anything
        is computed if any prompt or parameter cannot be served, ``GenerationError`` if the engine
        failed on one. An exception, ``KeyboardInterrupt`` included, aborts what is unfinished.
        """
        return self._answer(
            _as_prompts(prompts), params, namespace, progress=progress, continues_prompt=True
        )

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        progress: bool = False,
    ) -> Any:
        """Answer a conversation, a list of ``{"role": ..., "content": ...}``, through the chat
        template: one ``RequestOutput``. Given a list of conversations: a list of them."""
        is_single = not messages or isinstance(messages[0], Mapping)
        conversations = cast(Sequence[Sequence[Message]], [messages] if is_single else messages)
        if not all(conversations):
            raise InvalidRequestError("messages is empty; give at least one", param="messages")
        self._require_text("messages")
        prompts = [self.tokenizer.encode_chat(conversation) for conversation in conversations]
        outputs = self._answer(
            prompts, params, namespace, progress=progress, continues_prompt=False
        )
        return outputs[0] if is_single else outputs

    def _answer(
        self,
        each_prompt: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        namespace: Namespace,
        *,
        progress: bool,
        continues_prompt: bool,
    ) -> list[RequestOutput]:
        if params is None or isinstance(params, SamplingParams):
            each_params = [params or SamplingParams()] * len(each_prompt)
        else:
            each_params = list(params)
        if len(each_params) != len(each_prompt):
            raise InvalidRequestError(
                f"{len(each_params)} params for {len(each_prompt)} prompts; give one for all, or "
                "one per prompt",
                param="params",
            )
        if any(own.stop for own in each_params):
            self._require_text("stop")
        for own in each_params:
            self._intake.check_grammar(own)
        core = self._open_core()
        requests = [
            self._intake.admit(self._next_id(), self._encode(prompt), own, namespace=namespace)
            for prompt, own in zip(each_prompt, each_params, strict=True)
        ]
        answers = {
            request.request_id: _Answer(
                self.tokenizer,
                request.prompt_ids,
                request.params,
                continues_prompt=continues_prompt,
            )
            for request in requests
        }
        num_unfinished = sum(request.params.n for request in requests)
        try:
            for request in requests:
                core.add(request)
            with tqdm(total=num_unfinished, disable=not progress, unit="answer") as bar:
                while core.has_work:
                    for delta in core.step():
                        answer = answers[delta.request_id]
                        if answer.feed(delta):
                            core.abort(delta.request_id, delta.index)
                        if answer.has_ended(delta.index):
                            bar.update()
        except BaseException:
            for request in requests:
                core.abort(request.request_id)
            raise
        return [answers[request.request_id].output() for request in requests]

    def cache_info(self) -> CacheInfo:
        """Where the pages are now."""
        return self._open_core().cache_info()

    def clear_cache(self, namespace: Namespace | None = None) -> int:
        """Forget every cached prefix, of one namespace or all. Returns how many pages became
        free."""
        return self._open_core().clear_cache(namespace)

    def set_public_prefixes(self, prefixes: Sequence[Prompt]) -> None:
        """Let every namespace share what is cached of these texts or token ids, and no others from
        now on. Of a text's last token it depends on what follows whether it stays the same.

        *Raises* ``InvalidRequestError`` for what no prompt could begin with.
        """
        checked = [self._intake.check_prompt(self._encode(prefix)) for prefix in prefixes]
        self._open_core().set_public_prefixes(checked)

    def cache_stats(self) -> CacheStats:
        """All figures of the cache. *Cost*: O(nodes of the tree)."""
        return self._open_core().cache_stats()

    def explain(
        self, prompt: Prompt, *, namespace: Namespace = DEFAULT_NAMESPACE
    ) -> CacheExplanation:
        """What a prompt would find in the cache now, and why no more; nothing is computed.

        *Raises* ``InvalidRequestError`` for a prompt that could not be served.
        """
        checked = self._intake.check_prompt(self._encode(prompt))
        return self._open_core().explain(checked, namespace, looks_elsewhere=True)

    def stats(self) -> EngineStats:
        """Counters since start."""
        return self._open_core().stats()

    def check_invariants(self) -> None:
        """Assert that no page and no request is lost. *Cost*: O(everything)."""
        self._open_core().check_invariants()

    def close(self) -> None:
        """Free model and cache; with ``cache_dir``, first keep there what was computed last, which
        may take two seconds. Idempotent; anything but ``close`` raises afterwards."""
        self._end()
        self._core = None
        gc.collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_core(self) -> EngineCore:
        if self._core is None:
            raise RadixServeError("this LLM is closed; make a new one")
        return self._core

    def _encode(self, prompt: Prompt) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        self._require_text("prompt")
        return self.tokenizer.encode(prompt)

    def _require_text(self, param: str) -> None:
        if not self._has_text:
            raise InvalidRequestError(
                f"{param} is text, and this checkpoint has no tokenizer; give token ids, or add a "
                "tokenizer.json to it",
                param=param,
            )

    def _next_id(self) -> RequestId:
        self._num_requests += 1
        return RequestId(f"llm-{self._num_requests}")


class _Answer:
    """Gathers the deltas of one request."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        continues_prompt: bool,
    ) -> None:
        self._prompt_ids = prompt_ids
        self._texts = [
            ChoiceText(tokenizer, params, continues_prompt=continues_prompt)
            for _ in range(params.n)
        ]
        self._choices = [ChoiceOutput(index) for index in range(params.n)]
        self._pieces: list[list[str]] = [[] for _ in range(params.n)]
        self._num_cached_tokens = 0
        self._cache_report: CacheReport | None = None
        self._prompt_logprobs: list[TokenLogprob | None] | None = None
        if params.logprobs is not None:
            for choice in self._choices:
                choice.logprobs = []

    def feed(self, delta: TokenDelta) -> bool:
        """Take a delta in. True if the choice has ended in the text and must be ended below."""
        if delta.finish_reason == "error":
            raise GenerationError(f"request {delta.request_id}: {delta.error}")
        step = self._texts[delta.index].feed(delta)
        choice = self._choices[delta.index]
        self._pieces[delta.index].append(step.text)
        choice.token_ids.extend(step.token_ids)
        if choice.logprobs is not None and step.logprobs is not None:
            choice.logprobs.extend(step.logprobs)
        if step.finish_reason is not None:
            choice.finish_reason = step.finish_reason
            choice.stop_reason = step.stop_reason
        self._num_cached_tokens = delta.num_cached_tokens
        if delta.cache_report is not None:
            self._cache_report = delta.cache_report
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        return step.abort

    def has_ended(self, index: int) -> bool:
        return self._texts[index].is_finished

    def output(self) -> RequestOutput:
        for choice, pieces in zip(self._choices, self._pieces, strict=True):
            choice.text = "".join(pieces)
        assert self._cache_report is not None, "an answer without an admission"
        return RequestOutput(
            self._prompt_ids,
            self._choices,
            self._num_cached_tokens,
            self._cache_report,
            self._prompt_logprobs,
        )


def _as_prompts(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """A list of prompts, also where a single one was given: a string, or a list of token ids."""
    if isinstance(prompts, str):
        return [prompts]
    listed = list(prompts)
    if listed and all(isinstance(entry, Integral) for entry in listed):
        return [cast(list[int], listed)]
    return cast(list[Prompt], listed)
