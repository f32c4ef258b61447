"""What ``bench/tier_chaos.py`` is made of."""
