"""Lists of words, one noun a file, each a pool with a held-out sixth. Data only."""

from radixserve.demo.corpus.pool import Pool
from radixserve.demo.corpus.words import cities, first_names, people, surnames, things, titles

HELD_OUT = frozenset(
    word
    for module in (cities, first_names, people, surnames, things, titles)
    for pool in vars(module).values()
    if isinstance(pool, Pool)
    for word in pool.held_out
)
"""Every word that some list holds out."""
