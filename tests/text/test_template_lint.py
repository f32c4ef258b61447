"""What templates of several families do to the cache is found out, and nothing else is."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import tokenizers

from radixserve.text.chat_template import ChatTemplate
from radixserve.text.template_lint import (
    Finding,
    cost_every_conversation,
    describe,
    lint,
    rewrites,
)
from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import write_byte_tokenizer

# Miniatures, each in the manner of a family: what matters to the cache, and nothing else.

CHATML = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN3 = """\
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}\
{%- endfor %}
{%- if tools %}{{ '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
{%- set text = m.content.split('</think>')[-1] %}
{%- set thought = m.reasoning_content or '' %}
{%- if m.role == 'assistant' and loop.index0 > ns.last and thought %}
{%- set text = '<think>\\n' + thought + '\\n</think>\\n\\n' + text %}
{%- endif %}
{{- '<|im_start|>' + m.role + '\\n' + text }}
{%- for call in m.tool_calls or () %}{{ '<tool_call>' + call.function | tojson }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""

LLAMA31 = """\
{{- '<|bos|>' }}
{%- if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- set given = messages[0].role == 'system' %}
{{- '<|head|>system\\nToday: ' + date_string + '\\n\\n' }}
{%- if given %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}
{{- '<|eot|>' }}
{%- for m in messages %}{{ '<|head|>' + m.role + '\\n' + m.content | trim + '<|eot|>' }}\
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant\\n' }}{% endif %}"""

R1 = """\
{{- '<|bos|>' }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '<User>' + m.content }}
{%- elif m.role == 'assistant' %}{{ '<Bot>' + m.content.split('</think>')[-1] + '<End>' }}
{%- else %}{{ raise_exception('no tools here') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<Bot><think>\\n' }}{% endif %}"""

MISTRAL = """\
{{- '<s>' }}
{%- set ns = namespace(last=-1) %}
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}\
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and loop.index0 == ns.last %}{{ '[TOOLS]' + tools | tojson + '[/TOOLS]' }}{% endif %}
{{- '[INST]' + (system if loop.SYSTEM else '') + m.content + '[/INST]' }}
{%- elif m.role == 'assistant' %}{{ m.content + '</s>' }}
{%- else %}{{ raise_exception('only user and assistant') }}
{%- endif %}
{%- endfor %}"""

GEMMA = """\
{{- '<bos>' }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}\
{%- endif %}
{{- '<turn>' + m.role + '\\n' + m.content + '<end>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>assistant\\n' }}{% endif %}"""

SWITCHED = (
    "{{ 'Reasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') + '\n' }}"
    + CHATML
)

Lint = Callable[..., dict[str, Finding]]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    directory = tmp_path_factory.mktemp("lint")
    write_byte_tokenizer(directory)
    return tokenizers.Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))


@pytest.fixture
def lint_of(backend: tokenizers.Tokenizer) -> Lint:
    def run(source: str, *, tool_use: str | None = None, **formats: str) -> dict[str, Finding]:
        sources = {"default": source} | ({"tool_use": tool_use} if tool_use else {})
        templates = {name: ChatTemplate(text, special_tokens={}) for name, text in sources.items()}
        tokenizer = Tokenizer(
            backend, eos_token_ids=(), bos_token_id=None, templates=templates, **formats
        )
        found = lint(tokenizer)
        assert len({finding.kind for finding in found}) == len(found)
        return {finding.kind: finding for finding in found}

    return run


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, set()),
        (QWEN3, {"thinking", "generation_prompt"}),
        (LLAMA31, {"dated", "trimmed"}),
        (R1, {"thinking"}),
        (MISTRAL.replace("SYSTEM", "last"), {"history"}),
        (MISTRAL.replace("SYSTEM", "first"), {"tools"}),
        (GEMMA, set()),
        (SWITCHED, {"toggled"}),
    ],
    ids=["chatml", "qwen3", "llama3.1", "r1", "mistral", "mistral-tools", "gemma", "effort"],
)
def test_each_family_does_what_it_is_known_for(
    lint_of: Lint, source: str, expected: set[str]
) -> None:
    assert lint_of(source).keys() == expected


def test_whose_thinking_goes_is_told(lint_of: Lint) -> None:
    assert "every turn before the last question" in lint_of(QWEN3)["thinking"].what
    assert "every earlier turn" in lint_of(R1)["thinking"].what


def test_thinking_may_be_apart_or_in_the_answer(lint_of: Lint) -> None:
    kept = CHATML.replace("m.content", "(m.reasoning_content or '') + m.content")
    # Clients are given the thinking apart, and this template shows what they send back.
    assert lint_of(kept, reasoning_format="think") == {}
    # This one does not look for it.
    assert "every earlier turn" in lint_of(CHATML, reasoning_format="think")["thinking"].what
    # Here it is part of the answer, for clients as well.
    cutting = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    assert lint_of(cutting, reasoning_format="none").keys() == {"thinking"}
    assert lint_of(CHATML, reasoning_format="none") == {}


def test_without_tools_the_last_answer_tells_whose_thinking_goes(lint_of: Lint) -> None:
    refusing = QWEN3.replace(
        "{%- set ns", "{%- if messages[-1].role == 'tool' %}{{ raise_exception('no') }}{% endif %}"
        "{%- set ns", 1,
    )  # fmt: skip
    assert "every turn before the last question" in lint_of(refusing)["thinking"].what


@pytest.mark.parametrize(
    "source",
    [
        # A mark on the last message, a count of all, what comes last first.
        CHATML.replace("m.role +", "m.role + (' (now)' if loop.last else '') +"),
        "{{ messages | length }}" + CHATML,
        CHATML.replace("in messages", "in messages | reverse"),
    ],
    ids=["last", "count", "reversed"],
)
def test_whatever_changes_earlier_turns_is_found(lint_of: Lint, source: str) -> None:
    finding = lint_of(source)["history"]
    assert "tokens in a small probe" in finding.cost


def test_how_much_is_found_again_is_counted(lint_of: Lint) -> None:
    numbered = CHATML.replace("{%- for m", "{{ 'head ' }}{{ messages | length }}{%- for m")
    # The count differs. A special token is one, as every other byte is.
    first = "head 2xsystem\nprobe systemx\nxuser\nprobe onex\nxassistant\n"
    assert f"(5 of {len(first)} tokens" in lint_of(numbered)["history"].cost


@pytest.mark.parametrize(
    ("lead", "when"),
    [
        (
            "{{ '<note>' if enable_thinking is defined and enable_thinking }}",
            "enable_thinking=True",
        ),
        ("{{ '<note>' if thinking is defined and not thinking }}", "thinking=False"),
        ("{{ '<note>' }}", ""),
    ],
)
def test_a_prompt_that_ends_otherwise_than_answers_begin(
    lint_of: Lint, lead: str, when: str
) -> None:
    finding = lint_of(CHATML.replace("{% endif %}", lead + "{% endif %}"))["generation_prompt"]
    assert "'<note>'" in finding.what
    assert when in finding.what
    assert ("(with" in finding.what) == bool(when)


def test_an_answer_that_is_shown_with_something_in_front(lint_of: Lint) -> None:
    # Only in history: nobody had generated it.
    source = CHATML.replace("m.content", "('<seen>' if m.role == 'assistant' else '') + m.content")
    assert lint_of(source).keys() == {"generation_prompt"}


@pytest.mark.parametrize(
    ("method", "words"),
    [("lstrip()", "begins with"), ("rstrip()", "ends with"), ("strip()", "begins or ends with")],
)
def test_which_end_is_trimmed_is_told(lint_of: Lint, method: str, words: str) -> None:
    finding = lint_of(CHATML.replace("m.content", f"m.content.{method}"))["trimmed"]
    assert f"An answer that {words} white space" in finding.what


@pytest.mark.parametrize(
    ("format_", "how_often", "before"),
    [
        ("%Y-%m-%d", "every day", "It is 20"),
        ("%H:00", "in the course of a day", "It is "),
        ("%H:%M:%S", "every second", "It is 04:05:"),
    ],
)
def test_how_often_the_date_changes_is_told(
    lint_of: Lint, format_: str, how_often: str, before: str
) -> None:
    finding = lint_of("{{ 'It is ' + strftime_now('" + format_ + "') }}" + CHATML)["dated"]
    assert how_often in finding.what
    assert f"first {len(before)} tokens" in finding.cost


def test_a_date_that_requests_can_set_is_told_of(lint_of: Lint) -> None:
    assert "date_string" in lint_of(LLAMA31)["dated"].remedy
    assert "date_string" not in lint_of("{{ strftime_now('%d') }}" + CHATML)["dated"].remedy


def test_looking_for_the_clock_is_not_showing_it(lint_of: Lint) -> None:
    assert lint_of("{% if strftime_now is defined %}{% endif %}" + CHATML) == {}


def test_a_template_has_the_time_that_it_is_given() -> None:
    template = ChatTemplate("{{ strftime_now('%Y') }}", special_tokens={})
    assert template.at(lambda: datetime(1983, 4, 1)).render([]) == "1983"
    # The one that it was made from has its own.
    assert template.render([]) != "1983"


def test_a_template_that_takes_no_system_message_is_looked_into_as_well(lint_of: Lint) -> None:
    assert lint_of("{{ strftime_now('%d') }}" + GEMMA).keys() == {"dated"}


def test_what_a_switch_costs_is_counted(lint_of: Lint) -> None:
    finding = lint_of(SWITCHED)["toggled"]
    assert "reasoning_effort" in finding.what
    assert "first 11 tokens" in finding.cost


def test_tools_have_a_template_of_their_own(lint_of: Lint) -> None:
    moving = MISTRAL.replace("SYSTEM", "first")
    assert lint_of(CHATML, tool_use=moving).keys() == {"tools"}
    # Said once: with and without tools the history is written anew.
    assert lint_of("{{ messages | length }}" + CHATML, tool_use=moving).keys() == {"history"}


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('no') }}", "nothing", "{{ 1 / 0 }}", "{{ strftime_now('%d') + 1 }}"],
)
def test_a_template_that_shows_nothing_tells_nothing(lint_of: Lint, source: str) -> None:
    assert lint_of(source) == {}


def test_without_a_template_there_is_nothing_to_say(backend: tokenizers.Tokenizer) -> None:
    assert lint(Tokenizer(backend, eos_token_ids=(), bos_token_id=None, templates={})) == ()


def test_all_that_was_found_is_one_text(lint_of: Lint) -> None:
    findings = list(lint_of(QWEN3).values())
    text = describe(findings)
    assert len(findings) == 2
    for finding in findings:
        for sentence in (finding.what, finding.cost, finding.remedy):
            assert f"{sentence}." in text
    assert text.count("\n") == 6


def test_which_findings_make_the_next_turn_another(lint_of: Lint) -> None:
    for source, rewriting in ((QWEN3, True), (LLAMA31, False), (SWITCHED, False), (CHATML, False)):
        assert rewrites(lint_of(source).values(), "Yes.") == rewriting
    # Trimming does something only to answers that there is something to trim of.
    assert rewrites(lint_of(LLAMA31).values(), "Yes.\n")
    assert not rewrites(lint_of(SWITCHED).values(), "Yes.\n")


def test_trimming_alone_costs_few_conversations_anything(lint_of: Lint) -> None:
    trimming = lint_of(CHATML.replace("m.content", "m.content | trim")).values()
    assert [finding.kind for finding in trimming] == ["trimmed"]
    assert not cost_every_conversation(trimming)
    assert cost_every_conversation(lint_of(LLAMA31).values())
    assert not cost_every_conversation(())
