"""Whole pages copied to other pages, keys and values of all layers, in one launch."""
