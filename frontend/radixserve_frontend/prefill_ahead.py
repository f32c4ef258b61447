"""After an answer, what the next turn is certain to begin with is sent to the engine.

Some chat templates show an answer otherwise than the model gave it (``text/template_lint.py``), and
so the next turn would find little of it in the cache. But how it will be shown is known as soon as
it has ended: the client sends it back, with something new behind it.

    <user> Who? <bot> | Me.<end> <user> | Hi       what the template makes of the conversation, the
    <user> Who? <bot> | Me.<end> <user> | 7?       answer and two different questions: certain is
                                                   what agrees, in tokens

After an answer that calls tools their results come next instead, one for each call. The tokens are
made as those of requests are, and the engine computes them when it has nothing else to do
(``scheduler/ahead.py``), or finds that it holds them already.

Nobody waits for any of it. A single task, which lives as long as there is something to do, renders
in a thread, one conversation after the other: the newest first, tenants in turn, never many. A
conversation that has gone on meanwhile is rendered as it is now. Nothing is rendered while the
server drains.

Left out: answers that clients have several of (``n``), for nobody knows which one is sent back; and
those that go on from a message of the client's own.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from radixserve.engine.interface import Engine
from radixserve.errors import EngineDeadError, InvalidRequestError, ShuttingDownError
from radixserve.fair_stack import FairStack
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.template_lint import Finding, rewrites
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.conversation import Conversation, prepare_chat
from radixserve_frontend.dialect import Prepared
from radixserve_frontend.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

_NEXT: Final = ("Hi", "7?")
"""They agree in nothing, as texts or as tokens."""

MAX_PENDING: Final = 32
MAX_PENDING_PER_TENANT: Final = 4


@dataclass(frozen=True, slots=True)
class _Ended:
    """A conversation whose next answer has just ended."""

    conversation: Conversation
    """With the answer."""
    namespace: Namespace
    tenant: str

    def goes_on_in(self, other: "_Ended") -> bool:
        """Whether the other one is the same conversation, further on or as far."""
        before = self.conversation.messages[:-1]
        return (
            self.namespace == other.namespace
            and before == other.conversation.messages[: len(before)]
        )


class PrefillAhead:
    """Answers that have ended, on their way to be prefilled. One per app, on its event loop."""

    def __init__(
        self,
        engine: Engine,
        memory: TokenMemory,
        lifecycle: Lifecycle,
        findings: Sequence[Finding],
    ) -> None:
        """``findings``: what the chat template does; without any there never is anything to do."""
        self._engine = engine
        self._memory = memory
        self._lifecycle = lifecycle
        self._findings = findings
        self._pending: FairStack[_Ended] = FairStack(
            max_items=MAX_PENDING, max_per_owner=MAX_PENDING_PER_TENANT
        )
        self._work: asyncio.Task[None] | None = None

    def note(self, prepared: Prepared) -> None:
        """The answer to a request is complete. *Cost*: O(messages); the rest is done later."""
        conversation = prepared.conversation
        if conversation is None or conversation.continues_last or not self._is_accepting:
            return
        echo = prepared.reply.echo()
        if echo is None or not rewrites(self._findings, str(echo["content"])):
            return
        job = prepared.job
        messages = [*conversation.messages, echo]
        ended = _Ended(replace(conversation, messages=messages), job.namespace, job.tenant)
        self._pending.drop(lambda other: other.goes_on_in(ended))
        self._pending.push(job.tenant, ended)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._send_all())

    async def settled(self) -> None:
        """Wait until everything noted so far has been sent, or dropped."""
        if self._work is not None:
            await asyncio.shield(self._work)

    async def _send_all(self) -> None:
        while (ended := self._pending.pop()) is not None:
            if not self._is_accepting:
                continue
            try:
                prefix = await asyncio.to_thread(
                    certain_prefix, self._memory, ended.namespace, ended.conversation
                )
                self._engine.prefill_ahead(prefix, namespace=ended.namespace, tenant=ended.tenant)
            except InvalidRequestError as error:
                # The template refuses what a client might send next, or there is no room for it.
                logger.debug("a next turn is not prefilled: %s", error)
            except Exception:
                logger.exception("a next turn could not be prefilled")

    @property
    def _is_accepting(self) -> bool:
        try:
            self._lifecycle.check_accepting()
        except (ShuttingDownError, EngineDeadError):
            return False
        return True


def certain_prefix(
    memory: TokenMemory, namespace: Namespace, conversation: Conversation
) -> list[int]:
    """The token ids with which the next prompt begins, whatever comes behind the conversation's
    last message, which is the assistant's.

    *Raises* ``InvalidRequestError`` where the chat template refuses to go on. *Cost*: two
    renderings of the conversation, and the tokenization of what is not known of it.
    """
    first, second = (_prompt_ids(memory, namespace, conversation, text) for text in _NEXT)
    pairs = enumerate(zip(first, second, strict=False))
    agreed = next((number for number, (one, other) in pairs if one != other), 0)
    return first[:agreed]


def _prompt_ids(
    memory: TokenMemory, namespace: Namespace, conversation: Conversation, text: str
) -> list[int]:
    *_, answer = conversation.messages
    going_on = replace(
        conversation,
        messages=[*conversation.messages, *_following(answer, text)],
        # Of no matter to what is rendered.
        tool_choice="none",
        grammar=None,
    )
    return prepare_chat(memory, namespace, going_on, SamplingParams()).prompt_ids


def _following(answer: Mapping[str, Any], text: str) -> Iterable[Mapping[str, Any]]:
    """What comes next: results, if the answer calls tools, else what the user says."""
    calls = answer.get("tool_calls")
    if not calls:
        return [{"role": "user", "content": text}]
    return [
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "name": call["function"]["name"],
            "content": text,
        }
        for call in calls
    ]
