"""What of a request makes its conversation, the same wherever one is sent.

``/v1/chat/completions`` runs it, ``/tokenize`` counts it, ``/cache/explain`` asks the cache about
it: one type and one way to a ``Conversation``, so that all three speak of the very same prompt.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec
from radixserve_frontend.conversation import Conversation
from radixserve_frontend.openai.messages import MAX_MESSAGES, Message
from radixserve_frontend.openai.tools import Choice, Tools, tool_choice
from radixserve_frontend.strict import StrictModel

Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


class ConversationFields(StrictModel):
    """The turns and whatever else a chat template may show."""

    messages: Messages | None = None
    tools: Tools | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )

    # Extras beyond OpenAI's dialect, by the names that other servers use.
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def conversation_of(
    request: ConversationFields, grammar: GrammarSpec | None = None
) -> Conversation:
    """``grammar``: what the answer's content must match. *Raises* ``InvalidRequestError`` for
    fields that do not fit together."""
    continues_last = bool(request.continue_final_message)
    if continues_last and request.add_generation_prompt:
        raise InvalidRequestError(
            "continue_final_message and add_generation_prompt are both true; an answer goes on "
            "from the last message or follows it",
            param="add_generation_prompt",
        )
    if request.add_generation_prompt is False and not continues_last:
        raise InvalidRequestError(
            "add_generation_prompt is false, but continue_final_message is not true; for a prompt "
            "of your own, use /v1/completions",
            param="add_generation_prompt",
        )
    return Conversation(
        messages=[message.as_dict() for message in request.messages or ()],
        tools=[tool.as_dict() for tool in request.tools or ()],
        tool_choice=tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        grammar=grammar,
        template_variables=_template_variables(request),
        continues_last=continues_last,
    )


def _template_variables(request: ConversationFields) -> dict[str, Any]:
    """Names that a template may look for; those that it does not look for do nothing."""
    variables: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        variables["reasoning_effort"] = request.reasoning_effort
    if request.reasoning_effort == "none":
        # Two families' names for the same.
        variables |= {"enable_thinking": False, "thinking": False}
    return variables | (request.chat_template_kwargs or {})
