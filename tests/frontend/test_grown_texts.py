"""A message of many pieces is put together once, whoever looks at it in between."""

import json
from typing import Any

import pytest

from radixserve_frontend.anthropic.conversion import convert
from radixserve_frontend.anthropic.schema import MessagesRequest
from radixserve_frontend.grown_texts import GrownTexts
from radixserve_frontend.openai.responses.conversion import Turns
from radixserve_frontend.openai.responses.schema import ResponsesRequest
from radixserve_frontend.validation import validate


def test_pieces_follow_what_is_there() -> None:
    messages: list[dict[str, Any]] = [{"content": "other"}, {"content": "a"}]
    grown = GrownTexts()
    grown.add("content", "b")
    grown.add("reasoning_content", "hm")
    grown.add("content", "c")
    assert messages[-1] == {"content": "a"}
    grown.settle(messages)
    grown.settle(messages)
    assert messages == [{"content": "other"}, {"content": "abc", "reasoning_content": "hm"}]


def test_nothing_grows_an_empty_conversation() -> None:
    GrownTexts().settle([])


def test_blocks_of_the_assistants_become_one_text() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": "m",
        "max_tokens": 1,
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "text", "text": "b", **mark},
                    {"type": "text", "text": "c"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]},
            {"role": "assistant", "content": "d"},
        ],
    }
    converted = convert(validate(MessagesRequest, body))
    _, first, result, last = converted.conversation.messages
    assert (first["content"], first["reasoning_content"]) == ("abc", "hm")
    assert [call["id"] for call in first["tool_calls"]] == ["1"]
    assert result["role"] == "tool"
    assert last == {"role": "assistant", "content": "d"}
    (cut,) = converted.breakpoints
    assert cut.messages is not None
    assert cut.messages[-1]["content"] == "ab"
    assert converted.conversation.continues_last


def test_items_of_the_assistants_become_one_text() -> None:
    items = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"role": "assistant", "content": "c"},
    ]
    request = validate(ResponsesRequest, {"model": "m", "input": items})
    stored = {"role": "assistant", "content": "stored"}
    turns = Turns(request, [stored])
    contents = [message["content"] for message in turns.messages]
    assert contents == ["stored", "ab", "x", "c"]
    assert turns.messages[1]["reasoning_content"] == "hm"
    assert stored == {"role": "assistant", "content": "stored"}


@pytest.mark.parametrize("kind", ["anthropic", "responses"])
def test_a_text_of_many_pieces_is_copied_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    settle = GrownTexts.settle

    def counting(grown: GrownTexts, messages: list[dict[str, Any]]) -> None:
        settled.append(sum(map(len, grown._pieces.get("content", ()))))
        settle(grown, messages)

    monkeypatch.setattr(GrownTexts, "settle", counting)
    texts = [json.dumps(number) for number in range(500)]
    if kind == "anthropic":
        blocks = [{"type": "text", "text": text} for text in texts]
        messages = [{"role": "assistant", "content": blocks}]
        body = {"model": "m", "max_tokens": 1, "messages": messages}
        message = convert(validate(MessagesRequest, body)).conversation.messages[0]
    else:
        items = [{"role": "assistant", "content": text} for text in texts]
        message = Turns(validate(ResponsesRequest, {"model": "m", "input": items})).messages[0]
    assert message["content"] == "".join(texts)
    assert [size for size in settled if size] == [len("".join(texts))]
