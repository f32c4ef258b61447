"""What ``bench/soak.py`` is made of."""
