"""A conversation becomes the text that the checkpoint was trained on.

Chat templates are Jinja programs that come with a checkpoint: untrusted code, which runs in the
sandbox of ``template_sandbox.py`` and sees nothing but copies of plain JSON data. Whatever goes
wrong in one is an ``InvalidRequestError`` for that conversation and nothing else.

Templates disagree on what a message's content is. Most take a string, some a list of parts; which,
is found out once by rendering a probe, and every conversation is then given that form. Arguments of
tool calls they take as objects, where clients send JSON text.

Knows no tokenizer. Costs O(length of the conversation) for sane templates.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from radixserve.errors import CheckpointError, ConfigError, InvalidRequestError
from radixserve.text.template_sandbox import (
    Clock,
    TemplateLimitError,
    TemplateRefusal,
    make_environment,
)

MAX_RENDERED_CHARS = 2**25
"""Longest rendered conversation. At three characters a token, ten million tokens."""

_PROBE = "radixserve-probe"

_OWN_NAMES = frozenset({"messages", "tools", "add_generation_prompt"})
"""What every conversation sets."""

_ROLES = {"developer": "system"}
"""Roles that templates do not know, and the ones they know them by."""


class ChatTemplate:
    """A compiled template. Stateless: renderings do not influence each other.

    ``special_tokens`` are the template's variables ``bos_token``, ``eos_token`` and so on;
    ``clock`` tells it the time. *Raises* ``ConfigError`` where the source is not valid Jinja.
    """

    def __init__(
        self, source: str, *, special_tokens: Mapping[str, str], clock: Clock = datetime.now
    ) -> None:
        environment = make_environment(clock)
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(
                jinja2.meta.find_undeclared_variables(environment.parse(source))
            )
            """The names that it looks for."""
        except (jinja2.TemplateError, RecursionError) as error:
            line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise ConfigError(f"the chat template is not valid Jinja{line}: {error}") from error
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._reserved = _OWN_NAMES | special_tokens.keys() | environment.globals.keys()
        self.takes_parts = self._find_takes_parts()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> str:
        """The conversation as one text, special tokens spelt out.

        ``messages`` are OpenAI's: a role and a content (a string, or text parts, or nothing) and
        whatever else the template may look for. ``variables`` are further names it may look for
        (``enable_thinking``, ``documents``). ``continues_last``: the text ends where the last
        message's content does, for the answer to go on from there.

        *Raises* ``InvalidRequestError`` (param "messages") where the template refuses them, with
        its own words.
        """
        plain = [_normalise(i, m, as_parts=self.takes_parts) for i, m in enumerate(messages)]
        if continues_last:
            return self._render_open(plain, tools, variables)
        return self._render(plain, add_generation_prompt, tools, variables)

    def at(self, clock: Clock) -> "ChatTemplate":
        """The same template at another time. *Cost*: compiles it."""
        return ChatTemplate(self.source, special_tokens=self._special_tokens, clock=clock)

    def check_variables(self, variables: Mapping[str, Any]) -> None:
        """*Raises* ``InvalidRequestError`` (param "chat_template_kwargs") for names that mean
        something else in a template."""
        for name in variables:
            if name in self._reserved or name.startswith("_"):
                raise InvalidRequestError(
                    f"chat_template_kwargs has {name[:60]!r}, which is not for requests to set",
                    param="chat_template_kwargs",
                )

    def _render_open(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> str:
        """Up to the end of the last message's content."""
        # Templates trim contents and put text behind them. A mark at the end, which nobody can
        # guess, keeps the white space before it and shows where the end is.
        mark = uuid.uuid4().hex
        last = dict(messages[-1]) if messages else {}
        content = last.get("content")
        if isinstance(content, list):
            last["content"] = [*content[:-1], {"type": "text", "text": content[-1]["text"] + mark}]
        else:
            last["content"] = f"{content or ''}{mark}"
        text = self._render([*messages[:-1], last], False, tools, variables)
        before, found, _ = text.rpartition(mark)
        if not found:
            raise _refusal(
                "the last message cannot be continued: the chat template does not show its content"
            )
        return before

    def _render(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> str:
        context = {
            **_plain(variables or {}, "the template's variables"),
            **self._special_tokens,
            "messages": messages,
            "tools": _plain(tools, "tools") if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(context):
                length += len(piece)
                if length > MAX_RENDERED_CHARS:
                    raise TemplateLimitError(f"more than {MAX_RENDERED_CHARS} characters of text")
                pieces.append(piece)
        except TemplateRefusal as error:
            raise _refusal(f"the chat template refuses these messages: {error}") from error
        except Exception as error:
            # Templates are programs that somebody else wrote: any Python error can come out of one,
            # and whichever it is, this conversation cannot be rendered and the next one may be.
            raise _refusal(
                f"the chat template cannot render these messages: {type(error).__name__}: {error}"
            ) from error
        return "".join(pieces)

    def _find_takes_parts(self) -> bool:
        """Whether the template wants content as a list of parts: it shows a text only as such."""

        def shows(content: object) -> bool:
            try:
                text = self._render([{"role": "user", "content": content}], True, None, None)
            except InvalidRequestError:
                return False
            return _PROBE in text

        return not shows(_PROBE) and shows([{"type": "text", "text": _PROBE}])


def choose_templates(
    checkpoint: object, argument: str | None, *, special_tokens: Mapping[str, str]
) -> dict[str, ChatTemplate]:
    """Compile the templates to use, by name; empty if there are none.

    ``argument`` (``--chat-template``: a file, or the text itself) wins over what the ``checkpoint``
    brings: a text, or several texts by name, of which "default" and "tool_use" have a meaning.

    *Raises* ``ConfigError`` for a bad argument, ``CheckpointError`` for a bad template in the
    checkpoint.
    """
    if argument is not None:
        text = _read_argument(argument)
        return {"default": ChatTemplate(text, special_tokens=special_tokens)}
    sources = {"default": checkpoint} if isinstance(checkpoint, str) else checkpoint
    if not isinstance(sources, Mapping):
        return {}
    try:
        return {
            str(name): ChatTemplate(str(text), special_tokens=special_tokens)
            for name, text in sources.items()
        }
    except ConfigError as error:
        raise CheckpointError(
            f"{error}. It comes with the checkpoint; --chat-template uses another"
        ) from error


def pick_template(templates: Mapping[str, ChatTemplate], *, with_tools: bool) -> ChatTemplate:
    """The template for a conversation. *Raises* ``InvalidRequestError`` if there is none."""
    names = ["tool_use", "default"] if with_tools else ["default"]
    for name in names:
        if name in templates:
            return templates[name]
    found = f" (it has: {', '.join(sorted(templates))})" if templates else ""
    raise InvalidRequestError(
        f"this model has no default chat template{found}, so it cannot be chatted with; send a "
        "finished prompt to /v1/completions, or start the server with --chat-template",
        param="messages",
        code="no_chat_template",
    )


def _read_argument(argument: str) -> str:
    if "{{" in argument or "{%" in argument:
        return argument
    path = Path(argument).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f"chat_template is {argument!r}, which is neither a Jinja template nor a file that can "
            f"be read as one ({error})"
        ) from error


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="messages")


def _normalise(index: int, message: Mapping[str, Any], *, as_parts: bool) -> dict[str, Any]:
    """One message as templates expect it: a role they know, content in the form they take."""
    plain = _plain(message, f"messages[{index}]")
    if not isinstance(plain, dict) or not isinstance(plain.get("role"), str):
        raise _refusal(f"messages[{index}] has no role")
    content = plain.get("content")
    parts = [""] if content is None else content
    if isinstance(parts, str):
        parts = [parts]
    if not isinstance(parts, list):
        raise _refusal(
            f"messages[{index}].content is a {type(content).__name__}; it must be a string or a "
            "list of text parts"
        )
    texts = [_part_text(index, number, part) for number, part in enumerate(parts)]
    plain["role"] = _ROLES.get(plain["role"], plain["role"])
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_with_object(call) for call in plain["tool_calls"]]
    if as_parts:
        plain["content"] = [{"type": "text", "text": text} for text in texts]
    else:
        plain["content"] = "\n".join(texts)
    return plain


def _with_object(call: Any) -> Any:
    """A tool call whose arguments are an object. Text that is no JSON object stays as it is: models
    write such calls too, and have to see what they wrote."""
    match call:
        case {"function": {"arguments": str(text)}}:
            try:
                arguments = json.loads(text)
            except (ValueError, RecursionError):
                return call
            if isinstance(arguments, dict):
                return {**call, "function": {**call["function"], "arguments": arguments}}
    return call


def _part_text(index: int, number: int, part: object) -> str:
    match part:
        case str():
            return part
        case {"type": "text", "text": str(text)}:
            return text
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise _refusal(
        f"messages[{index}].content[{number}] is {kind!r}; only text parts "
        '({"type": "text", "text": "..."}) are supported'
    )


def _plain(value: Any, where: str) -> Any:
    """A copy made of exact JSON types only.

    Objects have methods which the sandbox cannot judge; and a template must not see the caller's
    own lists.
    """
    try:
        return _copy_json(value)
    except RecursionError as error:
        raise _refusal(f"{where}: nested too deeply for a chat template") from error
    except TypeError as error:
        raise _refusal(f"{where}: {error}, so no chat template can be given it") from error


def _copy_json(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): _copy_json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_copy_json(item) for item in value]
    raise TypeError(f"a {type(value).__name__} is not JSON")
