"""From what arrives to what is scheduled: the choices of a request.

    a request of its own      one choice, which forks (``fork``) when its prompt is computed
    one that ran before       every choice that has not ended, each with what it has said

The second kind comes from an engine that has died (``engine/supervisor.py``). Its choices keep
prompt and answer apart, and their places: noise, penalties and limits count from the same
beginnings, so they go on as if nothing had happened. To the cache they are prompts, as those of a
preempted request are.

Knows no queue and no pages. *Cost*: O(tokens).
"""

from collections.abc import Callable, Sequence

import numpy as np

from radixserve.ids import Namespace
from radixserve.request import Request
from radixserve.sampling.constraint import Constraint
from radixserve.types import EngineRequest, ResumedChoice


def begin(
    arrived: EngineRequest, namespace: Namespace, next_arrival: Callable[[], int]
) -> list[Request]:
    """The choices of ``arrived`` that begin now: at least one, in the order of their indices.

    They share one use of the cache (``Request.use``). ``next_arrival`` gives each its ordinal.
    """
    first = _request(arrived, namespace, next_arrival())
    if not arrived.resumed:
        return [first]
    resumed = sorted(arrived.resumed, key=lambda choice: choice.index)
    others = resumed[1:]
    choices = [first, *(_request(arrived, namespace, next_arrival(), like=first) for _ in others)]
    for request, choice in zip(choices, resumed, strict=True):
        _resume(request, choice)
    return choices


def constrain(choices: Sequence[Request], constraint: Constraint) -> None:
    """Hold every choice to a grammar, of which ``constraint`` is at the beginning."""
    # All forks before the first goes on.
    constraints = [constraint, *(constraint.fork() for _ in choices[1:])]
    for request, own in zip(choices, constraints, strict=True):
        request.constrain(own)


def fork(parent: Request, index: int, arrival: int) -> Request:
    """Another choice of a request whose prompt has just been computed, at the beginning of its
    answer."""
    child = Request(
        parent.request_id,
        parent.token_ids[: parent.num_prompt_tokens],
        parent.params,
        namespace=parent.namespace,
        stop_token_ids=parent.stop_token_ids,
        arrival=arrival,
        index=index,
        hints=parent.hints,
        use=parent.use,
        tenant=parent.tenant,
        priority=parent.priority,
    )
    child.num_cached_tokens = parent.num_cached_tokens
    # The request's first choice tells of the prompt.
    child.prompt_logprobs = None
    if parent.constraint is not None:
        child.constrain(parent.constraint.fork())
    return child


def _request(
    arrived: EngineRequest, namespace: Namespace, arrival: int, *, like: Request | None = None
) -> Request:
    return Request(
        arrived.request_id,
        np.asarray(arrived.prompt_ids, dtype=np.int32),
        arrived.params,
        namespace=namespace,
        stop_token_ids=frozenset(arrived.end_token_ids),
        arrival=arrival,
        hints=arrived.hints,
        tenant=arrived.tenant,
        priority=arrived.priority,
        use=None if like is None else like.use,
    )


def _resume(request: Request, choice: ResumedChoice) -> None:
    """Give a choice what it has said, before anybody has seen the request."""
    assert choice.token_ids, f"choice {choice.index} of {request} has nothing to go on from"
    assert choice.index < request.params.n, f"{request} has no choice {choice.index}"
    request.index = choice.index
    # Told with the first delta, which there has been.
    request.prompt_logprobs = None
    for token_id in choice.token_ids:
        assert token_id not in request.stop_token_ids, f"{request} had ended"
        request.append(token_id)
    assert request.num_tokens < request.max_total_tokens, f"{request} had ended"
    # Whoever resubmits it knows what its first admission found. This one is not to be told of, and
    # not to be counted.
    request.num_cached_tokens = 0
