"""Causal, grouped-query attention of a ragged batch over paged keys and values."""
