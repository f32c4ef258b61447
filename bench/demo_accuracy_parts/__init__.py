"""What ``bench/demo_accuracy.py`` is made of."""
