"""The demo model's tokenizer: a small byte-level BPE, learnt from generated text.

Made so that what is copied looks the same everywhere: a space before a capital or a digit is a
token of its own (a name has the same tokens at a line's start, in a table and within a sentence),
a run of letters is cut where a capital begins, and every digit is by itself. Any text can be
encoded, byte by byte at worst, and comes back as it was.

Token ids: the special tokens, the 256 bytes, then what was learnt. The files depend on the texts
and the size alone. Written in the standard files, read by whatever reads checkpoints.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
ENDOFTEXT_ID, IM_START_ID, IM_END_ID, PAD_ID = range(4)

MIN_SIZE = len(SPECIAL_TOKENS) + 256

CHATML_TEMPLATE = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_PIECES = "|".join(
    (
        # A lower-case word takes the space before it along.
        r" ?[\p{Ll}\p{Lo}\p{Lm}\p{M}]+",
        r"\p{Lu}[\p{Ll}\p{Lo}\p{Lm}\p{M}]*",
        r"\p{N}",
        # White space, except what belongs to a word or to a sign behind it.
        r"\s+(?=\s[^\s\p{Lu}\p{Lt}\p{N}])|\s+(?=[\p{Lu}\p{Lt}\p{N}])",
        r" ?[^\s\p{L}\p{M}\p{N}]+",
        r"\s+",
    )
)
"""What no token crosses the borders of."""


def train_tokenizer(texts: Iterable[str], *, size: int) -> Tokenizer:
    """Learn ``size`` tokens from these texts.

    *Raises* ``ValueError`` if there is no room for the bytes, or the texts are too few for so many.
    *Cost*: about a second for a million characters.
    """
    if size < MIN_SIZE:
        raise ValueError(f"{size} tokens; a byte-level tokenizer needs {MIN_SIZE} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        # Sorted: the library's own order is that of a hash table.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise ValueError(
            f"the texts yield {tokenizer.get_vocab_size()} tokens and not {size}; give more text"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into an existing directory."""
    directory = Path(directory)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHATML_TEMPLATE,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Read what ``save_tokenizer`` has written."""
    return Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
