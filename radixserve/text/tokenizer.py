"""Text to token ids and back, as the checkpoint's own tokenizer does it.

Built once from a checkpoint's directory. transformers reads the files (it knows the corrections
that many checkpoints need) and never runs code from them; encoding and decoding then go straight to
the ``tokenizers`` library underneath.

Text that arrives token by token is decoded by ``detokenizer.py``, conversations are rendered by
``chat_template.py``. Knows no sampling and no request.

Costs: loading under a second for a vocabulary of 150,000, once transformers is imported; encoding
is linear in the length of the text, about 0.2 s for a million characters. It releases the
interpreter's lock meanwhile, so whoever serves others at the same time encodes long texts in a
thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radixserve.errors import CheckpointError, InvalidRequestError, UnsupportedModelError
from radixserve.text.chat_formats import ChatFormats, find_formats
from radixserve.text.chat_template import ChatTemplate, choose_templates, pick_template
from radixserve.text.reasoning import THINK_CLOSE
from radixserve.text.vocabulary import Vocabulary

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""Each format's file that holds the tokens."""

_SAMPLE = (
    {"role": "user", "content": " What is there,\nthen? \n\n"},
    {"role": "assistant", "content": "Füchse  and\tdogs:\n\n    x = 1"},
    {"role": "user", "content": "1234, yes"},
)
"""A few turns with white space of every kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A rendered conversation."""

    text: str
    ids: list[int]


class Tokenizer:
    """One checkpoint's tokenizer. Immutable to its users, and safe to use from several threads."""

    def __init__(
        self,
        backend: Any,
        *,
        eos_token_ids: tuple[int, ...],
        bos_token_id: int | None,
        templates: Mapping[str, ChatTemplate],
        tool_format: str = "auto",
        reasoning_format: str = "auto",
    ) -> None:
        self._backend = backend
        self._templates = templates
        self._format_names = (tool_format, reasoning_format)
        self.vocabulary = Vocabulary(backend)
        """What each token contributes to a text: what ``Detokenizer`` works from."""
        self.eos_token_ids = eos_token_ids
        """The tokenizer's own opinion; the engine's is the union with the model's configuration."""
        self.bos_token_id = bos_token_id

    @classmethod
    def from_dir(
        cls,
        path: str | Path,
        *,
        chat_template: str | None = None,
        tool_format: str = "auto",
        reasoning_format: str = "auto",
    ) -> "Tokenizer":
        """Load the tokenizer in a checkpoint's directory.

        ``chat_template`` (a file, or the text itself) replaces the checkpoint's. The formats are
        names in ``chat_formats.py``.

        *Raises* ``CheckpointError`` if there is no tokenizer or it is torn,
        ``UnsupportedModelError`` if it cannot be used here, ``ConfigError`` for a bad
        ``chat_template``.
        """
        loaded = _load(Path(path))
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedModelError(
                f"the tokenizer in {path} is a {type(loaded).__name__}, which is not one of the "
                "tokenizers library; save it as tokenizer.json"
            )
        # Some checkpoints' files truncate or pad: right for training, silent loss of text here.
        backend.no_truncation()
        backend.no_padding()
        special_tokens = {
            name: token
            for name, token in loaded.special_tokens_map.items()
            if isinstance(token, str)
        }
        eos_token_id = loaded.eos_token_id
        return cls(
            backend,
            eos_token_ids=() if eos_token_id is None else (eos_token_id,),
            bos_token_id=loaded.bos_token_id,
            templates=choose_templates(
                loaded.chat_template, chat_template, special_tokens=special_tokens
            ),
            tool_format=tool_format,
            reasoning_format=reasoning_format,
        )

    @classmethod
    def empty(cls) -> "Tokenizer":
        """One that knows no token: every id decodes to nothing, every text encodes to nothing."""
        from tokenizers import Tokenizer as Backend  # noqa: PLC0415
        from tokenizers import decoders, models  # noqa: PLC0415

        backend = Backend(models.BPE())
        backend.decoder = decoders.ByteLevel()
        return cls(backend, eos_token_ids=(), bos_token_id=None, templates={})

    @property
    def vocab_size(self) -> int:
        """How many tokens it knows, special ones included. The model's own may be padded beyond."""
        size: int = self._backend.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def special_ids(self) -> frozenset[int]:
        """The tokens that ``skip_special_tokens`` leaves out."""
        return self.vocabulary.special_ids

    @property
    def added_tokens(self) -> Mapping[int, Any]:
        """The tokens that are looked for in a text before anything else, by their ids: the
        library's ``AddedToken``."""
        tokens: Mapping[int, Any] = self._backend.get_added_tokens_decoder()
        return tokens

    @property
    def has_chat_template(self) -> bool:
        return "default" in self._templates

    def encode(
        self, text: str, *, add_special_tokens: bool = True, param: str = "prompt"
    ) -> list[int]:
        """Token ids of a text; special tokens spelt out in it become those tokens.

        ``add_special_tokens`` adds what the tokenizer puts around a text (a BOS token, usually).

        *Raises* ``InvalidRequestError`` (naming ``param``) where the text is not Unicode.
        """
        surrogate = _find_surrogate(text)
        if surrogate is not None:
            raise _surrogate_error(f"{param}, at character {surrogate},", text[surrogate], param)
        return self._encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids. Ids that name no token are left out."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text in UTF-8, possibly less than a character."""
        return self.vocabulary.piece(token_id)

    def token_text(self, token_id: int) -> str:
        """The same as a string, U+FFFD standing for what is no character by itself."""
        return self.token_bytes(token_id).decode(errors="replace")

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A conversation as text, by the checkpoint's chat template (``ChatTemplate.render``).

        *Raises* ``InvalidRequestError`` where the template refuses, or there is none.
        """
        template = pick_template(self._templates, with_tools=bool(tools))
        return template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
        )

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a conversation.

        The template writes every special token itself, so the tokenizer adds none: one BOS at most.
        """
        text = self.render_chat(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )
        _check_unicode(text, messages)
        return self._encode(text, False)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> ChatPrompt:
        """``render_prompt`` and its tokens."""
        text = self.render_prompt(
            messages, tools=tools, variables=variables, continues_last=continues_last
        )
        return ChatPrompt(text=text, ids=self._encode(text, False))

    def render_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        continues_last: bool = False,
    ) -> str:
        """A conversation, rendered for an answer to follow; its special tokens are spelt out.

        See ``ChatTemplate.render`` and ``check_variables`` for the arguments, and for what is
        raised; and ``InvalidRequestError`` where a message is not Unicode.
        """
        template = self.chat_template(with_tools=bool(tools))
        template.check_variables(variables or {})
        text = template.render(
            messages, tools=tools, variables=variables, continues_last=continues_last
        )
        _check_unicode(text, messages)
        return text

    def sample_renderings(self) -> list[str]:
        """What the templates make of a few turns; nothing for those that refuse them."""
        texts = []
        for template in self._templates.values():
            try:
                texts.append(template.render(_SAMPLE))
            except InvalidRequestError:
                continue
        return texts

    def chat_template(self, *, with_tools: bool) -> ChatTemplate:
        """The template for a conversation. *Raises* ``InvalidRequestError`` if there is none."""
        return pick_template(self._templates, with_tools=with_tools)

    def chat_formats(self, *, with_tools: bool) -> ChatFormats:
        """How the answers to conversations are written. *Raises* ``InvalidRequestError`` if there
        is no template for them."""
        tool_format, reasoning_format = self._format_names
        return find_formats(
            self.chat_template(with_tools=with_tools).source,
            special_tokens=self.vocabulary.special_tokens,
            knows_thinking=self._backend.token_to_id(THINK_CLOSE) is not None,
            tool_format=tool_format,
            reasoning_format=reasoning_format,
        )

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        # Not `encode`: that holds the interpreter's lock for as long as it takes, half a second for
        # a million characters, and every stream of the server with it. This one lets go of it, and
        # is twice as fast, for it keeps no offsets.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids


def has_tokenizer(path: str | Path) -> bool:
    """Whether a directory holds a tokenizer, torn or not."""
    return any((Path(path) / name).is_file() for name in _FILES)


def _load(path: Path) -> Any:
    """What transformers makes of the directory."""
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory, so there is no tokenizer in it")
    if not has_tokenizer(path):
        # Of such a directory transformers makes, for some architectures, a tokenizer that knows no
        # token and turns every text into nothing.
        raise CheckpointError(
            f"no tokenizer can be loaded from {path}: it holds none of {', '.join(_FILES)}"
        )
    # Here and not above: this import brings torch along and takes two seconds.
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        return AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # transformers and tokenizers raise whatever they stumble over: ValueError, OSError,
        # KeyError, ImportError, and bare Exception out of Rust. They all mean the same.
        raise CheckpointError(
            f"no tokenizer can be loaded from {path}: {' '.join(str(error).split())} "
            f"({type(error).__name__}). A checkpoint needs its tokenizer.json beside config.json"
        ) from error


def _find_surrogate(text: str) -> int | None:
    """Index of the first lone surrogate; Python strings hold them, UTF-8 cannot."""
    try:
        # Ten times as fast as looking for one.
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _check_unicode(text: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """*Raises* ``InvalidRequestError`` if the conversation that was rendered as ``text`` is none
    of Unicode."""
    if _find_surrogate(text) is not None:
        where, char = _locate_surrogate(messages, "messages") or ("the conversation", None)
        raise _surrogate_error(where, char, "messages")


def _surrogate_error(where: str, char: str | None, param: str) -> InvalidRequestError:
    which = f" (U+{ord(char):04X})" if char else ""
    return InvalidRequestError(
        f"{where} holds half of a surrogate pair{which}, which is not a character; send the whole "
        "pair, or U+FFFD in its place",
        param=param,
        code="invalid_unicode",
    )


def _locate_surrogate(value: Any, path: str) -> tuple[str, str] | None:
    """Path and character of the first lone surrogate inside JSON data."""
    if isinstance(value, str):
        at = _find_surrogate(value)
        return None if at is None else (f"{path}, at character {at},", value[at])
    items: Any = ()
    if isinstance(value, Mapping):
        items = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, Sequence):
        items = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    for inner, item in items:
        found = _locate_surrogate(item, inner)
        if found:
            return found
    return None
