"""What choices have seen: counted once each, known or pending, and forgotten with the choice."""

import gc
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.device.transfer import HostTransfer, make_transfer
from radixserve.sampling.kernel_penalties import KernelPenalties
from radixserve.sampling.penalties import adjust_logits
from radixserve.sampling.row import SampleRow
from radixserve.sampling.seen_tokens import SeenTokens
from tests.kernels.judging import DEVICE
from tests.sampling.making import Choice, make_row, make_sampler, place_of

VOCAB = 40
PENALTIES: dict[str, Any] = {
    "repetition_penalty": 1.5,
    "presence_penalty": 0.25,
    "frequency_penalty": 0.5,
}
Adjust = Callable[[torch.Tensor, list[SampleRow], torch.Tensor | None], torch.Tensor]


class Host:
    """Penalties on the host."""

    def __init__(self) -> None:
        self.seen = SeenTokens()

    def adjust(
        self, logits: torch.Tensor, rows: list[SampleRow], previous: torch.Tensor | None
    ) -> torch.Tensor:
        changed = logits[[row.logits_row for row in rows]]
        adjust_logits(changed, rows, self.seen, previous)
        return changed

    def __len__(self) -> int:
        return len(self.seen)


class Kernels:
    """Penalties by kernels."""

    def __init__(self) -> None:
        self.penalties = KernelPenalties(VOCAB, make_transfer(DEVICE))

    def adjust(
        self, logits: torch.Tensor, rows: list[SampleRow], previous: torch.Tensor | None
    ) -> torch.Tensor:
        there = previous if previous is None else previous.to(DEVICE)
        return self.penalties.adjust(logits.to(DEVICE), rows, there).cpu()

    def __len__(self) -> int:
        return len(self.penalties.tally_pool)


both = pytest.mark.parametrize("make", [Host, Kernels])


def by_the_book(logits: torch.Tensor, prompt: list[int], output: list[int]) -> torch.Tensor:
    expected = logits.clone()
    for token in set(prompt) | set(output):
        x = float(logits[token])
        count = output.count(token)
        x = x / 1.5 if x > 0 else x * 1.5
        expected[token] = x - 0.25 * (count > 0) - 0.5 * count
    return expected


@both
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_step_by_step_is_all_at_once(make: type[Host | Kernels], seed: int) -> None:
    """Choices come, grow by tokens known at once or one step late, skip steps, and go."""
    choices = random.Random(seed)
    penalties = make()
    logits = torch.linspace(-2, 2, VOCAB).repeat(20, 1)
    living: list[tuple[Choice, list[int], list[int], int | None]] = []
    previous: torch.Tensor | None = None
    for _ in range(8):
        while len(living) < 12 and choices.random() < 0.7:
            prompt = [choices.randrange(VOCAB) for _ in range(choices.choice((0, 1, 9)))]
            answer = [choices.randrange(VOCAB) for _ in range(choices.choice((0, 0, 5)))]
            living.append((Choice(), prompt, answer, None))
        choices.shuffle(living)
        running = living[: choices.randint(0, len(living))]
        rows = [
            make_row(
                n,
                prompt=prompt,
                output=output if place is None else output[:-1],
                pending=place,
                choice=choice,
                **PENALTIES,
            )
            for n, (choice, prompt, output, place) in enumerate(running)
        ]
        if rows:
            adjusted = penalties.adjust(logits, rows, previous)
            expected = [by_the_book(logits[0], prompt, out) for _, prompt, out, _ in running]
            torch.testing.assert_close(adjusted, torch.stack(expected))
        # What this step sampled: all of it is pending in the next step, or known by then.
        previous = torch.tensor([choices.randrange(VOCAB) for _ in running], dtype=torch.int64)
        waiting = [(choice, prompt, out, None) for choice, prompt, out, _ in living[len(running) :]]
        stepped = [
            (choice, prompt, [*out, int(previous[n])], n if choices.random() < 0.6 else None)
            for n, (choice, prompt, out, _) in enumerate(running)
            if choices.random() < 0.8
        ]
        living = [*stepped, *waiting]
        del running, rows, stepped, waiting
    assert len(penalties) <= len(living)


@both
def test_a_history_goes_with_its_choice(make: type[Host | Kernels]) -> None:
    penalties = make()
    logits = torch.zeros(30, VOCAB)
    rows = [make_row(n, prompt=[n], output=[5], **PENALTIES) for n in range(30)]
    unpenalized = make_row(prompt=[1], logit_bias={3: 1.0})
    penalties.adjust(logits, [*rows, unpenalized], None)
    assert len(penalties) == 30, "rows without penalties leave nothing behind"
    del rows
    gc.collect()
    assert len(penalties) == 0
    # The next choices find nothing of the last ones.
    logits = torch.ones(30, VOCAB)
    rows = [make_row(n, prompt=[n + 2], **PENALTIES) for n in range(30)]
    changed = (penalties.adjust(logits, rows, None) != 1).nonzero().tolist()
    assert changed == [[n, n + 2] for n in range(30)]


def test_the_pool_hands_rows_on_and_doubles() -> None:
    penalties = Kernels()
    logits = torch.ones(9, VOCAB)
    pool = penalties.penalties.tally_pool
    sizes = []
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE)
    for count in (1, 8, 9, 9, 2):
        rows = [make_row(n, output=[n, n], **PENALTIES) for n in range(count)]
        adjusted = penalties.adjust(logits, rows, None)
        assert adjusted.diagonal().tolist()[:count] == pytest.approx([1 / 1.5 - 1.25] * count)
        assert int((adjusted != 1).sum()) == count
        sizes.append(len(pool.apply(None, *[nothing] * 5)))
        del rows
        gc.collect()
    assert sizes == [8, 8, 16, 16, 16]


@both
def test_growing_keeps_what_was_counted(make: type[Host | Kernels]) -> None:
    penalties = make()
    logits = torch.linspace(-1, 1, VOCAB).repeat(40, 1)
    first = make_row(prompt=[1, 2], output=[3, 3], **PENALTIES)
    expected = penalties.adjust(logits, [first], None)
    others = [make_row(n, prompt=[4], output=list(range(39)), **PENALTIES) for n in range(1, 40)]
    again = penalties.adjust(logits, [first, *others], None)
    assert torch.equal(again[:1], expected)


def test_many_new_tokens_at_once() -> None:
    """More distinct ones than the host's list begins with room for."""
    wide = torch.linspace(-1, 1, 1000)[None]
    choice, output = Choice(), [n * 7 % 1000 for n in range(300)]
    host = Host()
    for known in (0, 10, 300):
        row = make_row(prompt=[3], output=output[:known], choice=choice, **PENALTIES)
        adjusted = host.adjust(wide, [row], None)
        torch.testing.assert_close(adjusted[0], by_the_book(wide[0], [3], output[:known]))


class Unreadable:
    """A prompt that may not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"somebody asked for its {name}")


@both
def test_prompts_are_read_for_the_repetition_penalty_only(make: type[Host | Kernels]) -> None:
    logits = torch.linspace(-1, 1, VOCAB)[None]
    params: dict[str, Any] = {"presence_penalty": 0.25, "frequency_penalty": 0.5}
    row = make_row(output=[3, 3], **params)._replace(prompt_ids=cast("Any", Unreadable()))
    expected = logits.clone()
    expected[0, 3] -= 0.25 + 2 * 0.5
    torch.testing.assert_close(make().adjust(logits, [row], None), expected)


def test_forks_share_what_was_found_in_their_prompt() -> None:
    seen = SeenTokens()
    rows = [make_row(prompt=[7, 0, 7], output=[n], repetition_penalty=2.0) for n in range(3)]
    rows.append(make_row(prompt=[7, 0, 8], repetition_penalty=2.0))
    prompts = [seen.up_to_date(row, None).prompt for row in rows]
    assert prompts[0] is prompts[1] is prompts[2] is not prompts[3]
    assert [prompt.tokens.tolist() for prompt in prompts[2:]] == [[0, 7], [0, 7, 8]]


def test_a_prompt_does_not_keep_its_requests_buffer() -> None:
    seen, buffer = SeenTokens(), np.arange(10, dtype=np.int32)
    row = make_row(repetition_penalty=2.0)._replace(prompt_ids=buffer[:4])
    prompt = seen.up_to_date(row, None).prompt
    buffer[:] = 0
    assert prompt.is_of(np.arange(4, dtype=np.int32))


def test_logits_beyond_all_bounds() -> None:
    """Penalties on the host neither warn nor stop at them."""
    logits = torch.tensor([[torch.nan, torch.inf, -torch.inf, 3e38, -3e38]]).repeat(1, VOCAB // 5)
    row = make_row(prompt=[0, 1, 2], output=[3, 4], repetition_penalty=0.5, frequency_penalty=2.0)
    adjusted = Host().adjust(logits, [row], None)[0, :5].tolist()
    assert adjusted[0] != adjusted[0]
    assert adjusted[1:] == [torch.inf, -torch.inf, torch.inf, pytest.approx(-1.5e38)]


@both
def test_a_history_that_became_shorter_is_counted_anew(make: type[Host | Kernels]) -> None:
    penalties, choice = make(), Choice()
    logits = torch.linspace(-1, 1, VOCAB)[None]
    for output in ([1, 2, 3], [1, 9]):
        row = make_row(prompt=[0], output=output, choice=choice, **PENALTIES)
        adjusted = penalties.adjust(logits, [row], None)
        torch.testing.assert_close(adjusted[0], by_the_book(logits[0], [0], output))


@both
def test_a_pending_token_is_counted_once(make: type[Host | Kernels]) -> None:
    """Launched again with the same token pending, or known by then."""
    penalties, choice, previous = make(), Choice(), torch.tensor([8, 9])
    logits = torch.linspace(-1, 1, VOCAB)[None]
    expected = by_the_book(logits[0], [0], [4, 9])
    common: dict[str, Any] = {"prompt": [0], "choice": choice, **PENALTIES}
    for _ in range(2):
        row = make_row(output=[4], pending=1, **common)
        torch.testing.assert_close(penalties.adjust(logits, [row], previous)[0], expected)
    row = make_row(output=[4, 9], **common)
    torch.testing.assert_close(penalties.adjust(logits, [row], previous)[0], expected)


@both
def test_choices_about_to_fork_share_one_history(make: type[Host | Kernels]) -> None:
    penalties, choice = make(), Choice()
    logits = torch.linspace(-1, 1, VOCAB)[None]
    rows = [make_row(prompt=[0, 7], choice=choice, seed=n, **PENALTIES) for n in range(3)]
    expected = by_the_book(logits[0], [0, 7], [])
    torch.testing.assert_close(penalties.adjust(logits, rows, None), expected.repeat(3, 1))
    assert len(penalties) == 1


@pytest.mark.parametrize("use_kernel", [False, True])
def test_a_pending_token_counts_as_a_known_one(use_kernel: bool) -> None:
    """A chain of launches whose rows lack the newest token, against one whose rows know it."""
    generator = torch.Generator().manual_seed(2)
    steps = torch.randn(4, 3, VOCAB, generator=generator) * 2
    steps = steps.to(place_of(use_kernel=use_kernel))
    late, prompt = [Choice() for _ in range(3)], [4, 5]
    sampler, told = (make_sampler(VOCAB, use_kernel=use_kernel) for _ in range(2))
    answers: list[list[int]] = [[] for _ in range(3)]
    previous = None
    for step, logits in enumerate(steps):
        common: dict[str, Any] = {"position": step, "prompt": prompt, "top_k": 30, **PENALTIES}
        pending = [
            make_row(
                n,
                seed=n,
                choice=late[n],
                output=answers[n][:-1],
                # The order of rows changes from step to step.
                pending=(n + step - 1) % 3 if step else None,
                **common,
            )
            for n in range(3)
        ]
        order = [(n - step) % 3 for n in range(3)]
        samples = sampler.launch(logits, [pending[n] for n in order], previous)
        known = [make_row(n, seed=n, output=answers[n], **common) for n in order]
        assert told.launch(logits, known).wait() == samples.wait()
        previous = samples.token_ids
        for n, token_id in zip(order, previous.tolist(), strict=True):
            answers[n].append(token_id)
    assert len({tuple(answer) for answer in answers}) == 3


def test_dtypes_of_history_do_not_matter() -> None:
    """Prompts are int32 views of a request's buffer: an index beyond 2^31 must not wrap."""
    pool = KernelPenalties(2**31 // 4, HostTransfer()).tally_pool
    rows = [make_row(prompt=[9], output=[7], **PENALTIES) for _ in range(6)]
    news = pool.collect(rows)
    assert news.prompt_index.tolist() == [n * 2**29 + 9 for n in range(6)]
    assert news.answer_index.dtype == np.int64
    assert news.answer_index.tolist() == [n * 2**29 + 7 for n in range(6)]
