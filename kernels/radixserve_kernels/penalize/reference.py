"""The meaning of penalties, written to be read.

What a choice has seen is one number per token of the vocabulary, its *tally*:

    tally[v] = (1 if v is in the prompt, else 0) + 2 * (how often v is in the answer)

For a token with tally n > 0, of which c = n // 2 in the answer, the logit x becomes

    x / r  if x > 0 else  x * r          r: repetition penalty
    less  p + c * f  if c > 0            p, f: presence and frequency penalty

in float32. Logits of other tokens stay as they are.
"""

import torch


def penalize_reference(
    logits: torch.Tensor,
    logits_rows: torch.Tensor,
    tallies: torch.Tensor,
    slots: torch.Tensor,
    penalties: torch.Tensor,
) -> torch.Tensor:
    """Logits as float32, penalized. Arguments and result as ``kernel.penalize``."""
    out = logits[logits_rows.long()].float()
    for row, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        repetition, presence, frequency = penalties[:, row]
        tally = tallies[slot]
        count = tally // 2
        x = out[row]
        x = torch.where(tally == 0, x, torch.where(x > 0, x / repetition, x * repetition))
        out[row] = torch.where(count == 0, x, x - (presence + frequency * count))
    return out
