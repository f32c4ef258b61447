"""The demo model: small, trained by this package, and in it. It answers questions about a document.

``weights/`` is an ordinary checkpoint directory, loaded by the path that loads any other; its
``MODEL_CARD.md`` says what the model can do and how well. ``train.py`` makes such a directory,
``corpus/`` the text that it learns from, ``card.py`` the card. Importing this costs nothing.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The checkpoint that the name "demo" stands for."""

DEMO_NOTE = (
    "The demo model answers questions about a document in its system prompt, in English, and "
    "nothing else."
)

__all__ = ["DEMO_NOTE", "WEIGHTS"]
