"""Where the terminal chat's answers come from: a server elsewhere, or an engine started here.

Both give an answer as an iterator of text that ends with its figures. Both are synchronous, because
the terminal is: a Ctrl-C then interrupts exactly what waits. The engine's event loop runs in a
thread of its own. Abandoning the iterator (closing the generator) aborts the answer.
"""

import json
import queue
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.from_thread
import httpx

from radixserve.engine.interface import Engine, TextDelta
from radixserve.errors import ConfigError, RadixServeError
from radixserve.sampling.params import SamplingParams
from radixserve_frontend.config import ChatConfig, engine_config
from radixserve_frontend.json_text import encode_json

Messages = Sequence[Mapping[str, str]]

_CONNECT_TIMEOUT_S = 10.0


class AnswerError(RadixServeError):
    """The other side could not answer; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one answer cost."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    ttft_s: float | None
    """From asking to the first text; None if there was none."""
    duration_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token; None if there were fewer than two."""
        if self.ttft_s is None or self.generated_tokens < 2 or self.duration_s <= self.ttft_s:
            return None
        return (self.generated_tokens - 1) / (self.duration_s - self.ttft_s)


class Stopwatch:
    """Times one answer."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._ttft_s: float | None = None

    def note_token(self) -> None:
        """Something arrived. *Mutates* the stopwatch the first time."""
        if self._ttft_s is None:
            self._ttft_s = time.monotonic() - self._started_s

    def figures(self, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> Figures:
        """The answer is over."""
        return Figures(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            generated_tokens=generated_tokens,
            ttft_s=self._ttft_s,
            duration_s=time.monotonic() - self._started_s,
        )


Deltas = queue.SimpleQueue[TextDelta | Exception | None]


def _next(deltas: Deltas) -> TextDelta | Exception | None:
    """The next one. A Ctrl-C that comes just before the wait begins does not interrupt it, so the
    wait is not endless."""
    while True:
        try:
            return deltas.get(timeout=0.2)
        except queue.Empty:
            pass


class ChatSource(Protocol):
    """Somebody who answers."""

    name: str

    def answer(self, messages: Messages) -> Generator[str | Figures, None, None]:
        """Pieces of text, then one ``Figures``. *Raises* ``RadixServeError``."""
        ...


class EngineSource:
    """An engine whose loop runs behind ``portal``."""

    def __init__(
        self, engine: Engine, portal: anyio.from_thread.BlockingPortal, config: ChatConfig
    ) -> None:
        self.name = config.model
        self._engine = engine
        self._portal = portal
        self._params = SamplingParams(temperature=config.temperature, max_tokens=config.max_tokens)

    def answer(self, messages: Messages) -> Generator[str | Figures, None, None]:
        """See ``ChatSource.answer``."""
        watch = Stopwatch()
        prompt_ids = self._engine.tokenizer.encode_chat(messages)
        num_generated = num_cached = 0
        deltas: Deltas = queue.SimpleQueue()
        # Made first: a Ctrl-C that comes while the task is being started must end it all the same.
        scope = self._portal.call(anyio.CancelScope)
        try:
            self._portal.start_task_soon(self._pump, prompt_ids, deltas, scope)
            while (delta := _next(deltas)) is not None:
                if isinstance(delta, Exception):
                    raise delta
                if delta.token_ids:
                    watch.note_token()
                num_generated += len(delta.token_ids)
                num_cached = max(num_cached, delta.num_cached_tokens)
                if delta.finish_reason in ("error", "abort"):
                    raise AnswerError(delta.error or "the engine ended the answer early")
                if delta.text:
                    yield delta.text
        finally:
            self._portal.call(scope.cancel)
        yield watch.figures(len(prompt_ids), num_cached, num_generated)

    async def _pump(
        self,
        prompt_ids: Sequence[int],
        deltas: Deltas,
        scope: anyio.CancelScope,
    ) -> None:
        """On the engine's loop: one request from its beginning to its end, whoever ends it."""
        with scope:
            try:
                stream = await self._engine.submit(prompt_ids, self._params)
                try:
                    async for delta in stream:
                        deltas.put(delta)
                finally:
                    with anyio.CancelScope(shield=True):
                        await stream.aclose()
            except Exception as error:
                deltas.put(error)
            finally:
                deltas.put(None)


class HttpSource:
    """A server that speaks OpenAI's dialect."""

    def __init__(self, client: httpx.Client, model: str, config: ChatConfig) -> None:
        self.name = model
        self._client = client
        self._settings: dict[str, Any] = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if config.temperature is not None:
            self._settings["temperature"] = config.temperature
        if config.max_tokens is not None:
            self._settings["max_tokens"] = config.max_tokens

    def answer(self, messages: Messages) -> Generator[str | Figures, None, None]:
        """See ``ChatSource.answer``."""
        watch = Stopwatch()
        usage: Mapping[str, Any] = {}
        body = {**self._settings, "messages": list(messages)}
        try:
            with self._client.stream(
                "POST",
                "chat/completions",
                # Not json=, which fails on what is not Unicode; the server refuses it in words.
                content=encode_json(body),
                headers={"Content-Type": "application/json"},
            ) as response:
                if response.status_code != 200:
                    raise AnswerError(_error_message(response.read(), response.status_code))
                for event in _events(response.iter_bytes()):
                    if "error" in event:
                        raise AnswerError(str(event["error"].get("message")))
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        text = choice["delta"].get("content")
                        if text:
                            watch.note_token()
                            yield text
        except httpx.HTTPError as error:
            raise AnswerError(
                f"the connection to the server failed: {error or type(error).__name__}"
            ) from error
        details = usage.get("prompt_tokens_details") or {}
        yield watch.figures(
            usage.get("prompt_tokens", 0),
            details.get("cached_tokens") or 0,
            usage.get("completion_tokens", 0),
        )


@contextmanager
def open_source(config: ChatConfig) -> Iterator[ChatSource]:
    """The source that ``config`` asks for. *Raises* ``RadixServeError`` if it cannot be had."""
    if config.url is not None:
        with _open_http(config, config.url) as source:
            yield source
        return
    # Here and not above: with --url there is no reason to load the engine.
    from radixserve.engine.async_engine import AsyncEngine  # noqa: PLC0415

    with anyio.from_thread.start_blocking_portal() as portal:
        engine = portal.call(AsyncEngine.start, engine_config(config))
        try:
            yield EngineSource(engine, portal, config)
        finally:
            portal.call(engine.aclose)


@contextmanager
def _open_http(config: ChatConfig, url: str) -> Iterator[HttpSource]:
    base_url = url.rstrip("/")
    if not base_url.endswith("/v1"):
        base_url += "/v1"
    # No time limit on reading: a long prompt, or a full queue, takes as long as it takes.
    timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
    with httpx.Client(base_url=base_url, timeout=timeout) as client:
        try:
            response = client.get("models", timeout=_CONNECT_TIMEOUT_S)
            model = response.raise_for_status().json()["data"][0]["id"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                f"url is {url!r}, where no server of OpenAI's dialect answers: "
                f"{error or type(error).__name__}"
            ) from error
        yield HttpSource(client, model, config)


def _events(chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, up to its end marker.

    *Raises* ``AnswerError`` if the stream ends without one.
    """
    # Not response.iter_lines(), which also cuts at characters that JSON may hold raw.
    buffer = b""
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if line.startswith(b"data:"):
                yield json.loads(data)
    raise AnswerError("the server ended the stream before the end of the answer")


def _error_message(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"the server answered with status {status}"
