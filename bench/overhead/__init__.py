"""The parts of ``frontend_overhead.py``: a server around an engine that computes nothing."""

MODEL = "stub"
"""What the server calls its model."""
