"""``silu(gate) * up``: what lies between the two products of a gated feed-forward layer."""
