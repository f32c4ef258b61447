"""A tokenizer without a checkpoint, for tests of the front end: bytes as tokens."""

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from radixserve.text.chat_formats import ChatFormats
from radixserve.text.tokenizer import ChatPrompt
from radixserve.text.tool_calls.format import ToolFormat
from radixserve.text.tool_calls.registry import TOOL_FORMATS
from radixserve.text.vocabulary import DecoderRules


class FakeTokenizer:
    """Bytes as tokens, and a template of one line per message, with tools before them and calls
    behind. Calls come as Hermes writes them; ``thinks`` says whether answers begin with thinking,
    and ``opening`` is what the prompt ends with."""

    has_chat_template = False
    """None that could be looked into."""

    def __init__(self) -> None:
        self.thinks = False
        self.opening = ""
        self.tool_format: ToolFormat | None = TOOL_FORMATS["hermes"]
        self.variables: Mapping[str, Any] = {}
        """Those of the last rendering."""
        self.template_variables = frozenset({"tools"})
        self.vocabulary = SimpleNamespace(
            special_tokens={}, rules=DecoderRules(byte_level=True), piece=self.token_bytes
        )
        self.added_tokens: Mapping[int, Any] = {}

    def encode(
        self, text: str, *, add_special_tokens: bool = True, param: str = "prompt"
    ) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.apply_chat_template(messages).ids

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> ChatPrompt:
        text = self.render_prompt(
            messages, tools=tools, variables=variables, continues_last=continues_last
        )
        return ChatPrompt(text=text, ids=self.encode(text))

    def sample_renderings(self) -> list[str]:
        return []

    def render_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> str:
        self.variables = variables or {}
        lines = [f"tools: {json.dumps(list(tools))}\n"] if tools else []
        for message in messages:
            content = message["content"]
            if not isinstance(content, str):
                content = "\n".join(part["text"] for part in content)
            lines.append(f"{message['role']}: {content}\n")
            lines += [f"call: {json.dumps(call)}\n" for call in message.get("tool_calls", ())]
        text = "".join(lines)
        return text.removesuffix("\n") if continues_last else f"{text}assistant: {self.opening}"

    def chat_template(self, *, with_tools: bool) -> Any:
        return SimpleNamespace(variables=self.template_variables)

    def chat_formats(self, *, with_tools: bool) -> ChatFormats:
        return ChatFormats(tools=self.tool_format, thinks=self.thinks)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode("utf-8", "replace")
