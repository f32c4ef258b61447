"""Tenants at the real server: what one has cached is as cold to another as if it were not there;
what is public is shared, to the token.

Whether a prompt is cached shows in how long its first token takes, so nothing may be found that
somebody else has left. Times vary; what is looked at is their cause: how many of a prompt's tokens
were cached, and how many the engine says it has computed.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.public_prompts import public_prefix
from support.byte_tokenizer import write_byte_tokenizer
from tests.frontend.http_calls import CHAT, error_of
from tests.frontend.real_server import MODEL, TIMEOUT_S, Serving, running_server

PUBLIC = "Everybody who asks here is greeted with these words. " * 4
PRIVATE = "Only we know of the plan, and nobody else. " * 5
QUESTION = "What is in the plan, and since when has it been?"
KEYS = {"a": "key-of-tenant-a-0123456789", "b": "key-of-tenant-b-0123456789"}
OPERATOR = "key-of-the-operator-0123456789"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request was answered, and what its prompt cost."""

    text: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_computed_tokens: int
    """Of the prompt, by the engine's count."""


class Tenants:
    """A server with API keys, and its clients."""

    def __init__(self, serving: Serving) -> None:
        self._url = serving.url

    def client(self, key: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self._url, timeout=TIMEOUT_S, headers=headers)

    def ask(self, tenant: str, system: str, question: str, **settings: Any) -> Answer:
        before = self._num_computed_tokens()
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ]
        with self.client(KEYS[tenant]) as client:
            response = client.post(
                CHAT,
                json={
                    "model": MODEL,
                    "messages": messages,
                    "max_tokens": 8,
                    "temperature": 0,
                    **settings,
                },
            )
        answer = response.raise_for_status().json()
        usage = answer["usage"]
        return Answer(
            text=answer["choices"][0]["message"]["content"],
            num_prompt_tokens=usage["prompt_tokens"],
            num_cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            num_computed_tokens=self._num_computed_tokens() - before,
        )

    def _num_computed_tokens(self) -> int:
        with self.client(OPERATOR) as client:
            stats = client.get("/cache/stats").raise_for_status().json()
        return int(stats["sources"]["computed"])


@contextmanager
def tenants_of(directory: Path, *options: str) -> Iterator[Tenants]:
    lines = [f'[tenants.{name}]\nkeys = ["{key}"]' for name, key in KEYS.items()]
    lines.append(f'[tenants.ops]\nkeys = ["{OPERATOR}"]\nadmin = true')
    keys = directory / "keys.toml"
    keys.write_text("\n".join(lines), encoding="utf-8")
    with running_server("--api-keys-file", str(keys), *options) as serving:
        yield Tenants(serving)


def test_a_prompt_that_another_tenant_has_cached_is_cold(tmp_path: Path) -> None:
    with tenants_of(tmp_path) as tenants:
        first = tenants.ask("a", PRIVATE, QUESTION)
        assert first.num_cached_tokens == 0
        other = tenants.ask("b", PRIVATE, QUESTION)
        assert other.num_cached_tokens == 0
        assert other.num_computed_tokens == other.num_prompt_tokens
        again = tenants.ask("a", PRIVATE, QUESTION)
        assert again.num_cached_tokens == again.num_prompt_tokens - 1
        assert again.num_computed_tokens == 1
        # A tenant cannot name its way into another's namespace.
        for salt in ("a", "a\0", "\0", "x"):
            salted = tenants.ask("b", PRIVATE, QUESTION, cache_salt=salt)
            assert salted.num_cached_tokens == 0
        assert first.text == other.text == again.text == salted.text


@pytest.fixture(scope="module")
def num_public(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many tokens every conversation under the public prompt begins with."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(directory)
    return len(public_prefix(Tokenizer.from_dir(directory), PUBLIC))


def test_a_public_prompt_is_shared_and_nothing_behind_it(tmp_path: Path, num_public: int) -> None:
    path = tmp_path / "public.json"
    path.write_text(json.dumps([PUBLIC, "Another prompt."]), encoding="utf-8")
    with tenants_of(tmp_path, "--public-prompts", str(path)) as tenants:
        first = tenants.ask("a", PUBLIC, QUESTION)
        assert first.num_cached_tokens == 0
        # B may guess what A has asked, letter by letter: it finds out nothing.
        for question in (QUESTION, QUESTION[:20], QUESTION[:20] + "?", QUESTION + " Tell me."):
            guess = tenants.ask("b", PUBLIC, question, cache_salt=question)
            assert guess.num_cached_tokens == num_public
            assert guess.num_computed_tokens == guess.num_prompt_tokens - num_public
        other = tenants.ask("b", PUBLIC, QUESTION)
        assert other.num_cached_tokens == num_public
        again = [tenants.ask(name, PUBLIC, QUESTION) for name in "ab"]
        assert all(each.num_cached_tokens == each.num_prompt_tokens - 1 for each in again)
        assert {first.text, other.text} == {each.text for each in again}
        # Of another prompt no more is shared than its first letters, which the public ones have.
        private = [tenants.ask(name, PRIVATE, QUESTION) for name in "ab"]
        assert [each.num_cached_tokens for each in private] == [len("?system\n")] * 2
        with tenants.client(KEYS["b"]) as client:
            error_of(client.get("/cache/stats"), 403)
