"""Shapes and parameters of sampling that test and bench share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleCase:
    """``rows`` rows with the same parameters. ``spread``: standard deviation of the logits.

    ``top_k`` 0 is none. Temperature 0 is greedy.
    """

    name: str
    rows: int
    vocab_size: int
    spread: float = 3.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


TEST_CASES = (
    SampleCase("greedy", 4, 1000, temperature=0.0),
    SampleCase("whole", 4, 257),
    SampleCase("min-p", 4, 1000, min_p=0.05),
    SampleCase("min-p 1", 4, 257, min_p=1.0),
    SampleCase("top-k 1", 4, 1000, top_k=1),
    SampleCase("top-k", 4, 1000, top_k=20),
    SampleCase("top-k of nearly all", 3, 1000, top_k=999),
    SampleCase("top-p of few", 4, 1000, spread=6.0, top_p=0.8),
    SampleCase("top-p of many", 4, 3000, spread=0.3, top_p=0.95),
    SampleCase("top-p tiny", 4, 257, top_p=1e-9),
    SampleCase("top-k and top-p", 4, 1024, top_k=40, top_p=0.9),
    SampleCase("all three", 4, 1000, temperature=2.0, top_k=400, top_p=0.97, min_p=0.01),
    SampleCase("one block", 4, 50, top_k=7, top_p=0.9),
    SampleCase("one token", 2, 1, top_p=0.5),
    SampleCase("hot", 3, 1000, temperature=100.0, top_k=50, top_p=0.9),
    SampleCase("freezing", 3, 1000, temperature=1e-30, top_k=50, top_p=0.9),
)

BENCH_CASES = (
    # The slow way first: flat logits, of which top-p keeps most, and top-k as many as blocks.
    SampleCase("top-p of most, 64", 64, 151_936, spread=1.0, top_p=0.95),
    SampleCase("top-p of most, 256", 256, 151_936, spread=1.0, top_p=0.95),
    SampleCase("top-k of many, 64", 64, 151_936, spread=1.0, top_k=600),
    SampleCase("greedy, 1", 1, 151_936, temperature=0.0),
    SampleCase("greedy, 64", 64, 151_936, temperature=0.0),
    SampleCase("whole, 64", 64, 151_936),
    SampleCase("Qwen's, 1", 1, 151_936, temperature=0.7, top_k=20, top_p=0.8),
    SampleCase("Qwen's, 64", 64, 151_936, temperature=0.7, top_k=20, top_p=0.8),
    SampleCase("Qwen's, 256", 256, 151_936, temperature=0.7, top_k=20, top_p=0.8),
    SampleCase("top-p of few, 64", 64, 128_256, spread=6.0, top_p=0.9),
    SampleCase("top-p of most, 64, Llama's", 64, 128_256, spread=1.0, top_p=0.95),
    SampleCase("top-k of 2,000, 64", 64, 128_256, top_k=2000),
)
