"""A batch of prompts as every engine gets it. Knows no engine."""

from dataclasses import dataclass

import numpy as np

FIRST_ID, END_ID = 0x21, 0x7F
"""Prompts are of ids that are printable characters in the bench's tokenizer: llama.cpp's server
takes nothing but text."""


@dataclass(frozen=True, slots=True)
class Workload:
    """``num_prompts`` prompts of ``shared + own`` tokens, ``new`` tokens each to generate."""

    num_prompts: int
    shared: int
    own: int
    new: int

    @property
    def name(self) -> str:
        shared = f"{self.shared:,} shared + " if self.shared else ""
        prompts = "1 prompt" if self.num_prompts == 1 else f"{self.num_prompts} prompts"
        return f"{prompts} of {shared}{self.own:,} tokens, {self.new} new"

    @property
    def num_new(self) -> int:
        """Tokens to generate, all prompts together."""
        return self.num_prompts * self.new

    @property
    def num_distinct(self) -> int:
        """Prompt tokens, what is shared counted once."""
        return self.shared + self.num_prompts * self.own

    @property
    def context(self) -> int:
        """The most tokens one sequence comes to."""
        return self.shared + self.own + self.new

    def decode_kv_tokens(self, *, is_shared_once: bool) -> float:
        """Tokens whose keys and values an average decode step sees: shared ones counted once, or
        once for each request."""
        own = self.own + self.new / 2
        shared = self.shared * (1 if is_shared_once else self.num_prompts)
        return shared + self.num_prompts * own

    def prompts(self) -> list[list[int]]:
        """The same ones on every call. No two prompts have the same first token of their own."""
        assert self.num_prompts <= END_ID - FIRST_ID, self.num_prompts
        rng = np.random.default_rng(0)
        shared = rng.integers(FIRST_ID, END_ID, self.shared).tolist()
        own = rng.integers(FIRST_ID, END_ID, (self.num_prompts, self.own))
        own[:, 0] = FIRST_ID + np.arange(self.num_prompts)
        return [shared + one for one in own.tolist()]
