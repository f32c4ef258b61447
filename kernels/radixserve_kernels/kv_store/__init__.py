"""From the qkv projection to rotated queries, and keys and values in their pages."""
