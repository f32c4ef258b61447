"""The built-in model: tiny, made on the spot, and its words are noise.

``model.py`` says what it is made of, ``byte_tokenizer.py`` what its tokens are, ``directory.py``
where it is kept. Importing this costs neither torch nor transformers.
"""

from radixserve.demo.byte_tokenizer import write_byte_tokenizer
from radixserve.demo.directory import DEMO_WARNING, ensure_demo_model

__all__ = ["DEMO_WARNING", "ensure_demo_model", "write_byte_tokenizer"]
