"""What whole pages lose on short prompts, counted by hand; what the project's cache regains."""

import json

import pytest

import hit_rate
from hit_rate_parts import rounding
from hit_rate_parts.prompts import Piece, Prompt
from hit_rate_parts.rounding import RoundingResult, compare, rounding_table
from hit_rate_parts.workloads import generate_prompts

QUESTION, REPLY = Piece(("question",), 20), Piece(("reply",), 5)
FIRST = Prompt(0.0, (QUESTION,), REPLY)
# Of the 25 tokens said before, 24 were computed: one page of 16, and 8 more.
SECOND = Prompt(1.0, (QUESTION, REPLY, Piece(("more",), 10)), Piece(("end",), 1))


def both(
    *prompts: Prompt, capacity_blocks: int = 40, policy: str = "lru"
) -> tuple[RoundingResult, RoundingResult]:
    vllm, ours = compare(
        "by hand", prompts, [policy, "belady"], capacity_blocks, block_tokens=32, page_size=16
    )
    return vllm, ours


@pytest.mark.parametrize("policy", ["lru", "default"])
def test_what_rounding_loses_and_exact_matching_regains(policy: str) -> None:
    vllm, ours = both(FIRST, SECOND, policy=policy)
    assert (vllm.policy, ours.policy) == ("vllm", policy)
    assert vllm.hit_tokens_per_request == 16 / 2
    assert vllm.lost_tokens_per_request == ours.lost_tokens_per_request == 8 / 2
    assert vllm.num_losing_requests == 1
    assert vllm.regained_share == 0.0
    assert ours.hit_tokens_per_request == 24 / 2
    assert ours.regained_share == 1.0
    assert ours.token_hit_rate == 24 / (20 + 35)


def test_the_last_token_runs_and_is_nobodys_loss() -> None:
    # All but one of 20 tokens are asked for: 16, and 3 more.
    vllm, ours = both(FIRST, Prompt(1.0, (QUESTION,), Piece(("end",), 1)))
    assert vllm.lost_tokens_per_request == 3 / 2
    assert ours.hit_tokens_per_request == 19 / 2


def test_what_was_evicted_was_not_lost_to_rounding() -> None:
    crowd = [
        Prompt(0.1 + n / 100, (Piece(("crowd", n), 100),), Piece(("reply", n), 1)) for n in range(9)
    ]
    vllm, ours = both(FIRST, *crowd, SECOND, capacity_blocks=5)
    assert vllm.hit_tokens_per_request == vllm.lost_tokens_per_request == 0.0
    # Nothing was lost, so nothing remains to be regained.
    assert ours.regained_share == 1.0


def test_finding_less_than_whole_pages_counts_against(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_exact_hits", lambda *_: [0, 12])
    assert both(FIRST, SECOND)[1].regained_share == -0.5
    monkeypatch.setattr(rounding, "_exact_hits", lambda *_: [0, 30])
    assert both(FIRST, SECOND)[1].regained_share == 1.0
    monkeypatch.setattr(rounding, "_exact_hits", lambda *_: [0, 20])
    vllm, ours = both(FIRST, SECOND)
    assert ours.regained_share == 0.5
    head, whole, exact = rounding_table([vllm, ours]).splitlines()
    assert head.split()[:4] == ["blocks", "policy", "hits", "%"]
    assert whole.split() == ["40", "vllm", "29.1", "8.0", "4.00"]
    assert exact.split() == ["40", "lru", "36.4", "10.0", "50.0%", "NOT", "met"]


def test_a_request_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="a request of 36 tokens does not fit into 2 pages of 16"):
        both(FIRST, SECOND, capacity_blocks=1)


@pytest.mark.parametrize("seed", range(3))
def test_short_chat_is_short(seed: int) -> None:
    prompts = generate_prompts("short-chat", seed)
    assert 100 < sum(prompt.num_tokens for prompt in prompts) / len(prompts) <= 200


def test_the_script_says_what_is_regained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = generate_prompts("short-chat", 5)[:600]
    monkeypatch.setattr(hit_rate, "generate_prompts", lambda name, seed: few)
    arguments = ["--workload", "short-chat", "--capacity-blocks", "20,100", "--json"]
    assert hit_rate.main(arguments) == 0
    output = capsys.readouterr().out
    assert "short-chat: 600 requests" in output
    assert output.count("%  met") >= 3
    rows = json.loads(output.splitlines()[-1])["results"]
    assert [row["policy"] for row in rows] == ["vllm", "lru", "default"] * 2
    roomy = rows[3:]
    assert all(6.0 < row["lost_tokens_per_request"] < 8.0 for row in roomy)
    assert all(row["regained_share"] > 0.95 for row in roomy[1:])
    assert rows[1]["hit_tokens_per_request"] < rows[4]["hit_tokens_per_request"]
