"""The life of a generation request in the front end, the same for every dialect.

    check accepting ─▶ read body ─▶ prepare (thread) ─▶ submit ─▶ stream, or collect
         503            413, 415       400, 404       400, 429, 503   200, 504

Every error known when the engine accepts the request is a real HTTP status. After that a streamed
answer can only tell in the stream: an event with an error object, and then its end
(``Reply.fail``). Whatever happens, the engine's request is closed before the response is over.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.errors import InvalidRequestError, RadixServeError
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.body import in_thread, read_json_body
from radixserve_frontend.cache_report import cache_report_of
from radixserve_frontend.caller import caller_of
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.dialect import Arrival, Dialect, Prepared, Totals
from radixserve_frontend.disconnect import run_while_connected
from radixserve_frontend.generation import Generation
from radixserve_frontend.http_errors import error_answer, json_response
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.prefill_ahead import PrefillAhead
from radixserve_frontend.record import RequestRecord, record_of
from radixserve_frontend.request_log import LoggedAnswer
from radixserve_frontend.sse import EventStream
from radixserve_frontend.trace_recorder import TraceRecorder

logger = logging.getLogger(__name__)


class GenerationEndpoint:
    """Serves one dialect's route."""

    def __init__(
        self,
        dialect: Dialect,
        engine: Engine,
        memory: TokenMemory,
        config: ServerConfig,
        lifecycle: Lifecycle,
        recorder: TraceRecorder | None,
        ahead: PrefillAhead | None = None,
    ) -> None:
        self._dialect = dialect
        self._engine = engine
        self._memory = memory
        self._config = config
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._ahead = ahead

    async def create(self, request: Request) -> Response:
        """Answer one POST. *Raises* what the steps raise; the app turns it into statuses."""
        record = record_of(request.scope)
        record.shape_error = self._dialect.shape_error
        arrival = Arrival(request_id=record.request_id, caller=caller_of(request.scope))
        with self._lifecycle.receiving():
            body = await read_json_body(request, self._config.max_body_bytes)
        with self._lifecycle.in_flight():
            prepared = await in_thread(request, body, self._dialect.prepare, arrival)
            logged = LoggedAnswer(record.request_id, body) if self._config.log_requests else None
            del body
            record.stream = prepared.stream
            if not prepared.stream:
                collecting = self._collect(prepared, record, logged)
                return json_response(await run_while_connected(request.receive, collecting))
            generation = await self._start(prepared, record)
        return EventStream(
            self._events(prepared, generation, record, logged),
            close=generation.aclose,
            # Entered when the response runs, with no chance for a shutdown in between: Starlette
            # awaits nothing on the way.
            held=self._lifecycle.in_flight(),
            ping_s=self._config.sse_ping_s,
        )

    async def _start(self, prepared: Prepared, record: RequestRecord) -> Generation:
        job = prepared.job
        longest_s = self._config.max_request_s
        if longest_s is not None and (job.deadline_s is None or job.deadline_s > longest_s):
            job = replace(job, deadline_s=longest_s)
        try:
            return await Generation.start(self._engine, job, record, self._memory, self._recorder)
        except InvalidRequestError as error:
            # Blame the field by the name under which the client knows it.
            error.param = prepared.field_names.get(error.param or "", error.param)
            raise

    async def _collect(
        self, prepared: Prepared, record: RequestRecord, logged: LoggedAnswer | None
    ) -> dict[str, Any]:
        generation = await self._start(prepared, record)
        try:
            n = prepared.job.params.n
            async with aclosing(generation.deltas()) as deltas:
                async for prompt, delta in deltas:
                    prepared.reply.add(prompt * n + delta.index, delta)
                    if logged is not None:
                        logged.add(prompt * n + delta.index, delta)
        finally:
            if logged is not None:
                logged.end()
            await generation.aclose()
        self._note_end(prepared)
        return prepared.reply.answer(self._totals(prepared, generation))

    def _note_end(self, prepared: Prepared) -> None:
        """The answer is complete: what comes next may be made ready."""
        if self._ahead is not None:
            self._ahead.note(prepared)

    def _totals(self, prepared: Prepared, generation: Generation) -> Totals:
        extras = {}
        if prepared.cache_report:
            extras["cache_report"] = cache_report_of(generation, self._engine.tokenizer)
        return Totals(
            prompt_tokens=generation.job.num_prompt_tokens,
            cached_tokens=generation.num_cached_tokens,
            generated_tokens=generation.num_generated_tokens,
            extras=extras,
        )

    async def _events(
        self,
        prepared: Prepared,
        generation: Generation,
        record: RequestRecord,
        logged: LoggedAnswer | None,
    ) -> AsyncGenerator[bytes, None]:
        n = prepared.job.params.n
        reply = prepared.reply
        try:
            async with aclosing(generation.deltas()) as deltas:
                async for prompt, delta in deltas:
                    if logged is not None:
                        logged.add(prompt * n + delta.index, delta)
                    events = reply.chunk(prompt * n + delta.index, delta)
                    if events:
                        yield events
        except Exception as error:
            # Too late for a status; whatever it was, the client must not take this for the end.
            answer = error_answer(error)
            record.outcome, record.error_code = "error", answer.code
            # Not the message, which may quote the request.
            logger.warning(
                "request %s failed in mid-stream: %s",
                record.request_id,
                answer.code,
                exc_info=None if isinstance(error, RadixServeError) else error,
            )
            yield reply.fail(answer)
            return
        finally:
            if logged is not None:
                logged.end()
        self._note_end(prepared)
        yield reply.end(self._totals(prepared, generation))
