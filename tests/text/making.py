"""Tokenizers of the kinds that the served models have, trained in a moment on a few lines."""

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog was not amused, the fox was.",
    "Once upon a time, there was a tokenizer; it had learnt a few words, and no more than that.",
    "    def f(x):\n        return x + 1\n\n\nclass Fox:\n    pass\n",
    "Füchse überqueren Straßen. Ça va? 中文字符 日本語 привет мир 😀😀👍🏽",
] * 3

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def save(backend: Any, directory: Path, **config: Any) -> Path:
    """Write the tokenizer as a checkpoint has it."""
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def byte_level_bpe() -> Any:
    """As GPT-2, Llama 3 and Qwen have it."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("two words", special=False), AddedToken("日本", special=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A",
        special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))],
    )
    return backend


def sentencepiece_bpe() -> Any:
    """As Llama 2 and Mistral have it: ▁ for spaces, one in front, bytes for unknown characters."""
    trained = Backend(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, limit_alphabet=60)
    trained.train_from_iterator(CORPUS, trainer)
    state = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    for name in sorted(state["vocab"], key=state["vocab"].__getitem__):
        if name not in names:
            names.append(name)
    backend = Backend(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[tuple(merge) for merge in state["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names[:3]]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return backend


def metaspace_unigram() -> Any:
    """As T5 has it: a unigram model, and a decoder that drops the first token's ▁."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend
