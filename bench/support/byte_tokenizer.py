"""A tokenizer with one token per byte: it knows every text and has learnt none.

Token ``b`` is byte ``b`` for 0 <= b < 256; the special tokens follow in the order of
``SPECIAL_TOKENS``. Written in the standard files, so that whatever reads checkpoints reads it. For
tests and benchmarks that make checkpoints of their own.
"""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

from radixserve.demo.tokenizer import CHATML_TEMPLATE
from radixserve.text.vocabulary import byte_alphabet

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|bos|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
    "<|reserved_0|>",
    "<|reserved_1|>",
    "<|reserved_2|>",
)
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
ENDOFTEXT_ID, BOS_ID, IM_START_ID, IM_END_ID, PAD_ID = range(256, 261)


def write_byte_tokenizer(
    directory: str | Path, *, chat_template: str | None = CHATML_TEMPLATE, add_bos: bool = False
) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into an existing directory.

    ``add_bos`` puts ``<|bos|>`` before every text that is encoded with special tokens, as Llama's
    tokenizers do. The bytes of the files depend on the arguments only.
    """
    vocabulary = {char: byte for byte, char in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", BOS_ID)]
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    tokenizer.save(str(Path(directory) / "tokenizer.json"))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (Path(directory) / "tokenizer_config.json").write_text(text, encoding="utf-8")
