"""Lists of words, one noun a file, each a pool with a held-out sixth. Data only."""
