"""The parts of ``gpu_suite.py``, one a file, and what they share."""
