"""Penalties by the kernel, against the formula."""

import pytest
import torch

from radixserve_kernels.penalize.cases import TEST_CASES, PenalizeCase
from radixserve_kernels.penalize.kernel import penalize
from radixserve_kernels.penalize.reference import penalize_reference
from tests.kernels.placing import on_device


def arguments(case: PenalizeCase, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(case.rows)
    logits = torch.randn(2 * case.rows, case.vocab_size, generator=generator) * 4
    slots = torch.full((case.rows,), -1, dtype=torch.int32)
    slots[: case.penalized] = torch.randperm(case.rows + 2, generator=generator)[: case.penalized]
    tallies = torch.zeros(case.rows + 2, case.vocab_size, dtype=torch.int32)
    for _ in range(2):
        index = torch.randint(case.vocab_size, (case.rows + 2, case.history), generator=generator)
        tallies.scatter_add_(1, index, torch.randint(1, 3, index.shape, generator=generator).int())
    return [
        logits.to(dtype),
        torch.randperm(2 * case.rows, generator=generator)[: case.rows].int(),
        tallies,
        slots,
        torch.stack(
            (
                torch.linspace(0.5, 1.5, case.rows),
                torch.linspace(-2, 2, case.rows),
                torch.linspace(2, -1, case.rows),
            )
        ),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", TEST_CASES, ids=lambda case: case.name)
def test_cases(case: PenalizeCase, dtype: torch.dtype) -> None:
    given = arguments(case, dtype)
    there = [on_device(tensor) for tensor in given]
    out = penalize(*there).cpu()
    torch.testing.assert_close(out, penalize_reference(*given), rtol=1e-6, atol=1e-6)
    assert torch.equal(out[case.penalized :], given[0][given[1][case.penalized :]].float())
    assert all(torch.equal(now.cpu(), then) for now, then in zip(there, given, strict=True))


def test_the_formula_by_hand() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0, -torch.inf]])
    tallies = torch.tensor([[0, 1, 2, 5, 3]], dtype=torch.int32)
    penalties = torch.tensor([[4.0], [0.5], [0.25]])
    zero = torch.zeros(1, dtype=torch.int32)
    given = (logits, zero, tallies, zero, penalties)
    for out in (penalize(*(on_device(tensor) for tensor in given)), penalize_reference(*given)):
        assert out.tolist() == [[2.0, -8.0, 0.5 - 0.75, -8.0 - 1.0, -torch.inf]]


def test_no_rows() -> None:
    given = arguments(TEST_CASES[1], torch.float32)
    rows = [given[0], given[1][:0], given[2], given[3][:0], given[4][:, :0].contiguous()]
    assert penalize(*(on_device(tensor) for tensor in rows)).shape == (0, TEST_CASES[1].vocab_size)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.zeros(6, 4096, dtype=torch.float64), "logits: expected float16"),
        (1, torch.zeros(3, dtype=torch.int64), "logits_rows: expected int32, got int64"),
        (2, torch.zeros(5, 40, dtype=torch.int32), r"tallies: expected shape \[N, 4096\]"),
        (3, torch.zeros(2, dtype=torch.int32), r"slots: expected shape \[3\], got \[2\]"),
        (4, torch.zeros(3, 6)[:, ::2], "penalties: expected a contiguous tensor"),
    ],
)
def test_wrong_arguments_are_named(place: int, wrong: torch.Tensor, message: str) -> None:
    given = arguments(TEST_CASES[2], torch.float32)
    given[place] = wrong
    with pytest.raises(ValueError, match=message):
        penalize(*(on_device(tensor) for tensor in given))
