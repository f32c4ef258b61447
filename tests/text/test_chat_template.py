"""Templates: transformers' conventions, hostile code contained, refusals in their own words."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from radixserve.errors import CheckpointError, ConfigError, InvalidRequestError
from radixserve.text import chat_template
from radixserve.text.chat_template import ChatTemplate, choose_templates, pick_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <b>brief</b> & 'kind'."},
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": "Hello. ",
        "tool_calls": [{"name": "f", "arguments": {"ü": 1}}],
    },
    {"role": "user", "content": "bye"},
]

CONVENTIONS = [
    "{% for m in messages %}\n  {% if m.role == 'user' %}\nU:{{ m['content'] }}\n  {% endif %}\n"
    "{% endfor %}\n",
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
    "{{ messages | tojson }}|{{ messages[2] | tojson(indent=2) }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.found = true %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.found }}{{ ns.n }}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ messages[1].content }}{{ x }}"
    "{% endgeneration %}{{ x }}",
    "{{ strftime_now('%Y') }}{{ dict(a=1) }}{{ range(3) | list }}{{ 'ab' * 3 }}{{ 2 ** 10 }}"
    "{{ 1.5 * 2 }}{{ 3 * [0] }}{{ 2 ** 0.5 }}",
    "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0].content) }}{{ undefined_thing }}",
    "{% if tools %}{{ tools | tojson }}{% else %}none{% endif %}{{ enable_thinking }}",
    "{{ messages[0].content.split()[-1] }}{{ messages[0]['content'][:2] }}"
    "{{ 'a' if x is defined }}",
]


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("generation_prompt", [True, False])
def test_renders_as_transformers(source: str, generation_prompt: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "<&>"}}]
    variables: dict[str, Any] = {"enable_thinking": False}
    ours = ChatTemplate(source, special_tokens=SPECIAL).render(
        CHAT, add_generation_prompt=generation_prompt, tools=tools, variables=variables
    )
    (theirs,), _ = render_jinja_template(
        [CHAT],
        tools=tools,
        chat_template=source,
        add_generation_prompt=generation_prompt,
        **SPECIAL,
        **variables,
    )
    assert ours == theirs
    assert ours


def render(source: str, messages: Any = CHAT, **options: Any) -> str:
    return ChatTemplate(source, special_tokens=SPECIAL).render(messages, **options)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].__init__.__globals__ }}",
        "{{ (messages | map(attribute='__class__') | list)[0].__name__ }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__class__ = dict %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum(n=100) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ open('/etc/passwd').read() }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 8 * [1] }}",
        "{{ (9 ** 999999) | length }}",
        "{{ '%s' | format }}",
        "{{ 1 / 0 }}",
        "{{ messages[17].content }}",
        "{{ messages[0].nothing.more }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_what_a_template_must_not_or_cannot_do_is_a_refusal(source: str) -> None:
    messages = [dict(message) for message in CHAT]
    with pytest.raises(InvalidRequestError) as caught:
        render(source, messages)
    assert caught.value.param == "messages"
    assert str(caught.value).startswith("the chat template cannot render these messages: ")
    assert messages == CHAT


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__globals__ }}",
        "{{ dict.__base__ }}",
        "{{ self._TemplateReference__context }}",
    ],
)
def test_some_forbidden_names_lead_nowhere(source: str) -> None:
    assert render(source) == ""


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_RENDERED_CHARS", 1000)
    assert len(render("{% for i in range(1000) %}x{% endfor %}")) == 1000
    with pytest.raises(InvalidRequestError, match="more than 1000 characters"):
        render("{% for i in range(1001) %}x{% endfor %}")


def test_a_template_cannot_change_the_callers_messages() -> None:
    messages = [{"role": "user", "content": "hi", "extra": ["a"]}]
    with pytest.raises(InvalidRequestError):
        render("{{ messages[0].extra.append('b') }}", messages)
    assert messages == [{"role": "user", "content": "hi", "extra": ["a"]}]


def test_a_refusal_speaks_the_templates_words() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert str(caught.value) == "the chat template refuses these messages: roles must alternate"
    assert caught.value.param == "messages"


def test_variables_cannot_replace_what_is_the_servers() -> None:
    source = "{{ bos_token }}{{ messages | length }}{{ tools is none }}{{ mood }}"
    variables = {"bos_token": "x", "messages": [], "tools": [1], "mood": "!"}
    assert render(source, variables=variables) == "<s>4True!"


def test_strftime_now_is_now() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().year + d) for d in (-1, 0)}


STRINGS = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
PARTS = (
    "{% for m in messages %}{{ m.role }}={% for p in m.content %}"
    "{% if p.type == 'text' %}({{ p.text }}){% endif %}{% endfor %};{% endfor %}"
)
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}parts{% endif %}"
    "{% endfor %}"
)


def test_content_takes_the_form_that_the_template_takes() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "be"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "user", "content": []},
        {"role": "tool", "content": ["x", "y"]},
    ]
    assert render(STRINGS, messages) == (
        "system=be;user=a\nb;assistant=;assistant=;user=;tool=x\ny;"
    )
    assert render(PARTS, messages) == (
        "system=(be);user=(a)(b);assistant=();assistant=();user=;tool=(x)(y);"
    )
    assert render(EITHER, messages[:2]) == "bea\nb"


def test_a_template_that_refuses_the_probe_is_given_strings() -> None:
    source = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + STRINGS
    assert render(source, [{"role": "system", "content": "x"}]) == "system=x;"


class Odd(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"content": "x"}, "messages[0] has no role"),
        ({"role": 3, "content": "x"}, "messages[0] has no role"),
        ("text", "messages[0] has no role"),
        ({"role": "user", "content": 3}, "messages[0].content is a int"),
        ({"role": "user", "content": {"a": 1}}, "messages[0].content is a dict"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[0].content[0] is 'image_url'; only text parts",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0] is 'text'"),
        ({"role": "user", "content": [7]}, "messages[0].content[0] is 'int'"),
        ({"role": "user", "content": "x", "bad": object()}, "messages[0]: a object is not JSON"),
    ],
)
def test_messages_that_no_template_takes(message: Any, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(complaint)) as caught:
        render(STRINGS, [message])
    assert caught.value.param == "messages"


def test_strings_of_another_class_lose_it() -> None:
    source = "{{ messages[0].content.upper() }}"
    assert render(source, [{"role": Odd("user"), "content": Odd("x")}]) == "X"


def test_endless_nesting_is_refused() -> None:
    deep: Any = "x"
    for _ in range(20_000):
        deep = [deep]
    with pytest.raises(InvalidRequestError, match=r"messages\[0\]: nested too deeply"):
        render(STRINGS, [{"role": "user", "content": "x", "arguments": deep}])
    with pytest.raises(InvalidRequestError, match="variables: nested too deeply"):
        render(STRINGS, variables={"x": deep})


@pytest.mark.parametrize("source", ["{% for %}", "{{ 'unclosed ", "{% nonsense %}"])
def test_bad_jinja_is_named_by_whoever_brought_it(source: str) -> None:
    with pytest.raises(ConfigError, match=r"not valid Jinja, line 1"):
        choose_templates(None, source if "{%" in source else source + "{{", special_tokens={})
    with pytest.raises(CheckpointError, match="--chat-template uses another"):
        choose_templates(source, None, special_tokens={})


def test_a_template_too_deep_to_compile_is_not_valid() -> None:
    with pytest.raises(ConfigError, match="not valid Jinja"):
        ChatTemplate("{{ " + "(" * 20_000 + ")" * 20_000 + " }}", special_tokens={})


def test_the_argument_wins_and_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my.jinja"
    file.write_text("file {{ messages[0].content }}", encoding="utf-8")

    def chosen(checkpoint: object, argument: str | None) -> str:
        templates = choose_templates(checkpoint, argument, special_tokens={})
        return pick_template(templates, with_tools=False).render(CHAT[1:])

    assert chosen("checkpoint", None) == "checkpoint"
    assert chosen({"default": "named", "tool_use": "tools"}, None) == "named"
    assert chosen("checkpoint", str(file)) == "file hi"
    assert chosen(None, "{{ messages[0].content }} inline") == "hi inline"
    assert chosen(None, "{% if true %}inline{% endif %}") == "inline"


@pytest.mark.parametrize("argument", ["no/such/file.jinja", "", ".", "bad\0name"])
def test_an_argument_that_is_neither_file_nor_template(argument: str) -> None:
    with pytest.raises(ConfigError, match="neither a Jinja template nor a file"):
        choose_templates(None, argument, special_tokens={})


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\xfe{{")
    with pytest.raises(ConfigError, match="neither"):
        choose_templates(None, str(file), special_tokens={})


def test_named_templates() -> None:
    templates = choose_templates({"default": "d", "tool_use": "t"}, None, special_tokens={})
    assert pick_template(templates, with_tools=True).render(CHAT) == "t"
    assert pick_template(templates, with_tools=False).render(CHAT) == "d"
    only = choose_templates({"default": "d"}, None, special_tokens={})
    assert pick_template(only, with_tools=True).render(CHAT) == "d"
    with pytest.raises(InvalidRequestError, match=r"it has: rag, tool_use") as caught:
        pick_template(
            choose_templates({"tool_use": "t", "rag": "r"}, None, special_tokens={}),
            with_tools=False,
        )
    assert caught.value.code == "no_chat_template"
    assert choose_templates(None, None, special_tokens={}) == {}


def test_templates_are_read_where_checkpoints_keep_them(tmp_path: Path) -> None:
    from radixserve.text.tokenizer import Tokenizer  # noqa: PLC0415
    from support.byte_tokenizer import write_byte_tokenizer  # noqa: PLC0415

    write_byte_tokenizer(tmp_path, chat_template=None)
    (tmp_path / "chat_template.jinja").write_text("from the file {{ eos_token }}")
    assert Tokenizer.from_dir(tmp_path).render_chat(CHAT) == "from the file <|im_end|>"
    (tmp_path / "chat_template.jinja").unlink()
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = [
        {"name": "default", "template": "listed"},
        {"name": "tool_use", "template": "tools"},
    ]
    path.write_text(json.dumps(config))
    tokenizer = Tokenizer.from_dir(tmp_path)
    assert tokenizer.render_chat(CHAT) == "listed"
    assert tokenizer.render_chat(CHAT, tools=[{"type": "function"}]) == "tools"
