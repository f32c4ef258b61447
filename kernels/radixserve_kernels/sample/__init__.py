"""One token per row from logits: greedy, or drawn from what top-k, top-p and min-p keep."""
