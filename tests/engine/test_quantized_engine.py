"""Weights in 8 bits through the whole engine: warm equals cold, and everybody is told."""

from pathlib import Path

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from tests.engine.reference import SMALLEST_GAP, family_prompts

PROMPTS = family_prompts(seed=3)[:12]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2)


def test_warm_tokens_are_the_cold_ones_in_8_bits(tiny_dir: Path) -> None:
    """Prompts and batches go by unpacked weights, a request alone decodes by the kernel."""
    with LLM(str(tiny_dir), dtype="float32", quantization="int8", num_threads=1) as llm:
        cold = llm.generate(PROMPTS, GREEDY)
        warm = llm.generate(PROMPTS, GREEDY)
        llm.clear_cache()
        alone = [llm.generate([prompt], GREEDY)[0] for prompt in PROMPTS]
    for output in cold:
        assert output.logprobs is not None
        for token in output.logprobs:
            (_, best), (_, second) = token.top[:2]
            assert best - second > SMALLEST_GAP
    expected = [output.token_ids for output in cold]
    assert [output.token_ids for output in warm] == expected
    assert [output.token_ids for output in alone] == expected
    assert all(output.num_cached_tokens == len(output.prompt_ids) - 1 for output in warm)


def test_the_engine_tells_its_quantisation(tiny_dir: Path) -> None:
    for name in ("none", "int4"):
        config = EngineConfig(
            model=str(tiny_dir), dtype="float32", quantization=name, num_pages=40, num_threads=1
        )
        assert build_core(config, progress=False).info.quantization == name
