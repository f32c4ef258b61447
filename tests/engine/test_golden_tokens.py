"""Right: tokens and logits of the whole engine are transformers', for every family served."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from radixserve import LLM, SamplingParams
from support.byte_tokenizer import write_byte_tokenizer
from tests.engine.reference import SMALLEST_GAP, Reference, mixed_prompts, transformers_greedy
from tests.support.checkpoints import EOS_TOKEN_ID, make_checkpoint

NUM_TOKENS = 64
RELATIVE_ERROR = 1e-4

# Seeds are chosen for the gap between the two best logits, which a test asserts.
SEEDS = {"llama": 2, "llama3_rope": 5, "mistral": 5, "qwen2": 4, "qwen3": 4}


@dataclass(frozen=True, slots=True)
class Golden:
    directory: Path
    prompts: list[list[int]]
    reference: Reference


@pytest.fixture(scope="module", params=SEEDS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    kind: str = request.param
    directory = make_checkpoint(
        kind,
        tmp_path_factory.mktemp("golden") / kind,
        seed=SEEDS[kind],
        add_tokenizer=write_byte_tokenizer,
    )
    prompts = mixed_prompts(16, seed=7)
    return Golden(directory, prompts, transformers_greedy(directory, prompts, NUM_TOKENS))


def test_reference_is_fit_to_test_with(golden: Golden) -> None:
    assert golden.reference.smallest_gap > SMALLEST_GAP
    # Sixteen different answers, none of which repeats a token or two forever.
    assert len({tuple(tokens) for tokens in golden.reference.tokens}) == 16
    assert all(len(set(tokens)) > 8 for tokens in golden.reference.tokens)


def test_greedy_tokens_and_logits_equal_transformers(golden: Golden) -> None:
    with LLM(str(golden.directory), dtype="float32", num_pages=400, num_threads=1) as llm:
        outputs = llm.generate(
            golden.prompts,
            SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=20),
        )
        # All together: no step but the first few carries fewer than sixteen rows.
        assert llm.stats().num_steps == NUM_TOKENS
        llm.check_invariants()
    for row, output in enumerate(outputs):
        assert output.token_ids == golden.reference.tokens[row]
        assert output.finish_reason == "length"
        theirs = golden.reference.logits[row]
        assert output.logprobs is not None
        ids = torch.tensor([[token for token, _ in entry.top] for entry in output.logprobs])
        ours = torch.tensor([[value for _, value in entry.top] for entry in output.logprobs])
        best = theirs.log_softmax(-1).topk(20)
        # Among the last of twenty, equals may change places: values are compared by rank and by id.
        scale = theirs.abs().amax(-1, keepdim=True)
        assert ((ours - best.values).abs() <= RELATIVE_ERROR * scale).all()
        own = theirs.log_softmax(-1).gather(-1, ids)
        assert ((ours - own).abs() <= RELATIVE_ERROR * scale).all()
        assert [entry.token_id for entry in output.logprobs] == output.token_ids
        chosen = torch.tensor([entry.logprob for entry in output.logprobs])
        assert torch.equal(chosen, ours[:, 0])


def test_end_of_sequence_stops_where_transformers_stops(tmp_path: Path) -> None:
    """The end tokens are some that the answers do contain, so these end at different places."""
    eos = [EOS_TOKEN_ID, 65, 130, 200]
    directory = make_checkpoint(
        "llama",
        tmp_path / "eos",
        seed=SEEDS["llama"],
        eos_token_id=eos,
        add_tokenizer=write_byte_tokenizer,
    )
    prompts = mixed_prompts(16, seed=7)
    reference = transformers_greedy(directory, prompts, NUM_TOKENS)
    assert reference.smallest_gap > SMALLEST_GAP
    with LLM(str(directory), dtype="float32", num_pages=400, num_threads=1) as llm:
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=NUM_TOKENS))
    stopped = 0
    for output, whole in zip(outputs, reference.tokens, strict=True):
        ends = [at for at, token in enumerate(whole) if token in eos]
        expected = whole[: ends[0] + 1] if ends else whole
        assert output.token_ids == expected
        assert output.finish_reason == ("stop" if ends else "length")
        # It was the model's own end, not one that the request asked for.
        assert output.stop_reason is None
        stopped += bool(ends)
    assert 2 < stopped < 16
