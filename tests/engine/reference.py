"""What transformers makes of the same checkpoint: the answers that every engine run must give.

Prompts are padded on the left to one batch, which is how ``generate`` wants them; the padding is
masked and positions count from each prompt's own beginning.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from tests.support.checkpoints import load_reference

SMALLEST_GAP = 1e-3
"""Two best logits closer than this could change places by rounding alone (design: promises)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Greedy: ``tokens[i][j]`` is chosen from ``logits[i, j]``; float32[prompt, step, token]."""

    tokens: list[list[int]]
    logits: torch.Tensor

    @property
    def smallest_gap(self) -> float:
        """Between the two best logits, over all choices made."""
        best = self.logits.topk(2).values
        return float((best[..., 0] - best[..., 1]).min())


def transformers_greedy(directory: Path, prompts: list[list[int]], num_tokens: int) -> Reference:
    """Answer every prompt with exactly ``num_tokens`` tokens, whatever they are."""
    model = load_reference(directory)
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    # Nothing may end an answer early: all of it is compared.
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=num_tokens,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return Reference(out.sequences[:, longest:].tolist(), torch.stack(out.logits, dim=1))


def mixed_prompts(
    count: int, *, seed: int, longest: int = 150, vocab_size: int = 256
) -> list[list[int]]:
    """Random prompts of evenly spread lengths, the first of one token, the last of ``longest``."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.linspace(1, longest, count).round().int().tolist()
    return [torch.randint(0, vocab_size, (n,), generator=generator).tolist() for n in lengths]


def family_prompts(*, seed: int) -> list[list[int]]:
    """32 prompts of 1 to 120 tokens as servers see them: four long stems, left at every depth.

    Some leave a stem inside a page, some at its border, some are a stem itself, some the beginning
    of another, and one comes twice.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(0, 256, (length,), generator=generator).tolist()

    stems = [draw(length) for length in (96, 80, 64, 33)]
    prompts = [stem[:kept] + draw(4) for stem in stems for kept in (1, 15, 16, 17, 32)]
    prompts += [stem + draw(12) for stem in stems]
    prompts += stems
    prompts += [draw(1), draw(120), stems[0][:48], stems[0]]
    return prompts
