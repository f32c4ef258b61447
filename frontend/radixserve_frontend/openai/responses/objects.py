"""The JSON objects of ``/v1/responses``: the response itself, its items and its usage."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radixserve.types import PrefixMark
from radixserve_frontend.answer_blocks import Block
from radixserve_frontend.breakpoints import num_marked_tokens
from radixserve_frontend.dialect import Totals
from radixserve_frontend.openai.responses.conversion import call_id
from radixserve_frontend.openai.responses.schema import NamedFunction, ResponsesRequest

_TOLD_OF_TOOLS = {"type", "name", "description", "parameters", "strict"}


@dataclass(frozen=True, slots=True)
class ResponseFrame:
    """What a response's objects repeat from beginning to end."""

    response_id: str
    fields: Mapping[str, Any]
    """All of the response's fields, those that change at what they begin with."""

    def object(
        self,
        status: str,
        output: Sequence[dict[str, Any]],
        *,
        usage: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The response as it is now."""
        return {
            **self.fields,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": error,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "output": [*output],
            "usage": usage,
        }


def response_frame(response_id: str, request: ResponsesRequest) -> ResponseFrame:
    """*Cost*: O(tools)."""
    reasoning, choice, text = request.reasoning, request.tool_choice, request.text
    wanted = None if text is None else text.format
    fields: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": None,
        "error": None,
        "incomplete_details": None,
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": dict(request.metadata or {}),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None if reasoning is None else reasoning.effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.wants_store,
        "temperature": request.temperature,
        "text": {
            "format": (
                {"type": "text"}
                if wanted is None
                else wanted.model_dump(by_alias=True, exclude_none=True)
            ),
            "verbosity": "medium",
        },
        "tool_choice": choice.model_dump()
        if isinstance(choice, NamedFunction)
        else choice or "auto",
        "tools": [tool.model_dump(include=_TOLD_OF_TOOLS) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }
    return ResponseFrame(response_id, fields)


def usage_object(
    totals: Totals, marks: Sequence[PrefixMark], reasoning_tokens: int
) -> dict[str, Any]:
    """``cache_write_tokens``: those computed that a mark asked to keep."""
    return {
        "input_tokens": totals.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": totals.cached_tokens,
            "cache_write_tokens": max(0, num_marked_tokens(marks) - totals.cached_tokens),
        },
        "output_tokens": totals.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": totals.prompt_tokens + totals.generated_tokens,
    }


def item_id(block: Block) -> str:
    """The id of a block's item."""
    prefix = {"reasoning": "rs", "text": "msg", "call": "fc"}[block.kind]
    return f"{prefix}_{block.id}"


def item_object(
    block: Block, status: str, logprobs: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """A block as an output item. One in progress is empty: events bring what is in it."""
    in_progress = status == "in_progress"
    item: dict[str, Any] = {"id": item_id(block), "status": status}
    match block.kind:
        case "reasoning":
            content = [] if in_progress else [{"type": "reasoning_text", "text": block.text}]
            item |= {"type": "reasoning", "summary": [], "content": content}
        case "text":
            content = [] if in_progress else [text_part(block.text, logprobs)]
            item |= {"type": "message", "role": "assistant", "content": content}
        case "call":
            item |= {
                "type": "function_call",
                "call_id": call_id(block),
                "name": block.name,
                "arguments": "" if in_progress else block.text,
            }
    return item


def text_part(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The one part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*logprobs]}
