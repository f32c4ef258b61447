"""Whether the engines compute the same model: what they continue prompts with, greedily.

With random weights two tokens are sometimes nearly as likely, and in bfloat16 each engine rounds in
its own way. So a few of the first tokens may differ; in a vocabulary of thousands, those of a model
that is loaded wrongly nearly all do.
"""

from collections.abc import Mapping, Sequence

from peers_parts.peer import Peer
from peers_parts.workload import Workload

WORKLOAD = Workload(8, 16, 16, 4)


def num_same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    pairs = zip(one, other, strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(one))


def check_same_model(reference: Peer, others: Mapping[str, Peer]) -> str:
    """A sentence on how far they agree with transformers.

    *Raises* ``RuntimeError`` if one begins less than half of the answers with the same token.
    """
    expected = reference.greedy(WORKLOAD)
    said = []
    for name, peer in others.items():
        same = [num_same(a, b) for a, b in zip(expected, peer.greedy(WORKLOAD), strict=True)]
        if sum(count > 0 for count in same) * 2 < len(same):
            raise RuntimeError(
                f"{name} computes another model than transformers: of {WORKLOAD.num_prompts} "
                f"answers of {WORKLOAD.new} tokens, {same} leading tokens are the same"
            )
        said.append(f"{name} {sum(same)}")
    total = WORKLOAD.num_prompts * WORKLOAD.new
    return f"same first tokens as transformers, greedily in bfloat16, of {total}: {', '.join(said)}"
