"""System prompts that all tenants share: from an administrator's file to token ids for the engine.

    <system> You are ... <end> <user> | Hi        what the chat template makes of the prompt and
    <system> You are ... <end> <user> | 7?        two different questions: public is what agrees

So a public prefix ends where the first thing that a user writes may begin, whatever the template
puts before and between. A request shares of it as many tokens as its own agree with, from the first
one on: also one whose template adds tools shares what comes before them.

A template that writes today's date into the system part makes another prefix tomorrow: restart the
server then, or requests share only what comes before the date.

Knows templates through the tokenizer; no cache. Done once, at start.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from radixserve.engine.interface import Engine
from radixserve.errors import ConfigError, InvalidRequestError
from radixserve.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_QUESTIONS: Final = ("Hi", "7?")
"""They agree in nothing, as texts or as tokens."""


def read_prompts(path: str) -> list[str]:
    """The prompts in a file: a JSON array of strings if its name ends in .json, else all of its
    text is one, without the line break at its end.

    *Raises* ``ConfigError`` for anything else, and for a prompt without text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        prompts = json.loads(text) if path.endswith(".json") else [text.removesuffix("\n")]
    except (OSError, ValueError) as error:
        raise ConfigError(f"public_prompts: {path} cannot be read: {error}") from error
    if not isinstance(prompts, list) or not all(isinstance(one, str) for one in prompts):
        raise ConfigError(f'public_prompts: {path} must hold a list of strings: ["...", "..."]')
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise ConfigError(f"public_prompts: prompt {number} of {path} has no text")
    return prompts


def public_prefix(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The token ids with which every conversation under a system prompt begins.

    *Raises* ``InvalidRequestError`` where the chat template refuses system messages, leaves them
    out, or puts them behind what the user says.
    """
    first, second = (
        tokenizer.apply_chat_template(
            [{"role": "system", "content": prompt}, {"role": "user", "content": question}]
        )
        for question in _QUESTIONS
    )
    if prompt.strip() not in first.text[: _num_agreeing(first.text, second.text)]:
        raise InvalidRequestError(
            "the chat template does not put a system message before what users say, so nothing can "
            "be shared"
        )
    return first.ids[: _num_agreeing(first.ids, second.ids)]


def _num_agreeing(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many leading ones agree. Neither begins the other."""
    pairs = enumerate(zip(first, second, strict=False))
    return next(number for number, (one, other) in pairs if one != other)


def share_prompts(engine: Engine, prompts: Sequence[str]) -> None:
    """Let every namespace share what is cached of these system prompts.

    *Raises* ``ConfigError`` if the model's template or context has no room for one.
    """
    try:
        prefixes = [public_prefix(engine.tokenizer, prompt) for prompt in prompts]
        engine.set_public_prefixes(prefixes)
    except InvalidRequestError as error:
        raise ConfigError(f"public_prompts cannot be used with this model: {error}") from error
    num_tokens = sum(map(len, prefixes))
    logger.info("%d public prompts, %d tokens, are shared by all", len(prefixes), num_tokens)
