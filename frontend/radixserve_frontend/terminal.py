"""``radixserve chat``: a conversation in the terminal, with what each answer cost below it.

Reads lines from stdin (a person's or a pipe's), writes answers to stdout. Ctrl-C during an answer
ends that answer and keeps what there is of it; at the prompt it, or Ctrl-D, ends the program.
"""

import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Final

from rich.console import Console

from radixserve.config import DEMO_MODEL
from radixserve.demo import DEMO_NOTE
from radixserve.errors import RadixServeError
from radixserve_frontend.chat_sources import ChatSource, Figures, open_source
from radixserve_frontend.config import ChatConfig

_HELP: Final = """\
/exit          end (so does Ctrl-D)
/reset         forget the conversation, keep the system prompt
/system TEXT   set the system prompt and start over; without TEXT, remove it
/help          this
Ctrl-C         interrupt an answer"""

# Everything below the space but tab and line feed, and the C1 controls: what could move the cursor,
# retitle the window or worse. A model's words are not trusted with the terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

ReadLine = Callable[[], str | None]
"""Gives the next line without its end, or None when there are no more."""


def run_terminal(config: ChatConfig) -> int:
    """Chat until the user ends it; return the exit status. *Raises* ``RadixServeError`` if there is
    nobody to chat with."""
    for stream in (sys.stdin, sys.stdout):
        # A pipe may hold what is not text, and a terminal may lack a character that a model says:
        # neither is a reason to end.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console(highlight=False, soft_wrap=True)
    is_person = sys.stdin.isatty()
    if is_person:
        # Line editing and history for input(); only its import matters. Windows has none.
        with suppress(ImportError):
            import readline  # noqa: F401, PLC0415
    with open_source(config) as source:
        if is_person:
            console.print(_visible(source.name), style="bold", end="", markup=False)
            console.print(". /help lists the commands.", markup=False)
        if config.url is None and config.model == DEMO_MODEL:
            hint = "" if config.system else " Give it a document: /system TEXT"
            console.print(f"{DEMO_NOTE}{hint}", style="dim", markup=False)
        session = ChatSession(source, console, system=config.system)
        session.run(_read_person if is_person else _read_pipe)
    return 0


class ChatSession:
    """The conversation so far. Mutable; one per terminal."""

    def __init__(self, source: ChatSource, console: Console, *, system: str | None) -> None:
        self._source = source
        self._console = console
        self._system = system
        self._turns: list[dict[str, str]] = []

    @property
    def messages(self) -> Sequence[dict[str, str]]:
        """What the next answer is asked with, system prompt first."""
        head = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*head, *self._turns]

    def run(self, read_line: ReadLine) -> None:
        """Take lines until there are no more or one says /exit."""
        while (line := read_line()) is not None:
            line = line.strip()
            if line == "/exit":
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self.ask(line)

    def ask(self, text: str) -> None:
        """One turn. A failed one is taken back, so that the next can be asked."""
        self._turns.append({"role": "user", "content": text})
        pieces: list[str] = []
        figures: Figures | None = None
        try:
            # Closing aborts what has not been read to its end.
            with closing(self._source.answer(self.messages)) as answer:
                for piece in answer:
                    if isinstance(piece, Figures):
                        figures = piece
                    else:
                        pieces.append(piece)
                        self._console.print(_visible(piece), end="", markup=False)
        except KeyboardInterrupt:
            self._note("interrupted")
        except RadixServeError as error:
            self._turns.pop()
            self._note(f"error: {error}", style="red")
            return
        self._turns.append({"role": "assistant", "content": "".join(pieces)})
        if figures is not None:
            self._note(describe(figures))

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/reset":
            self._turns.clear()
            self._note("the conversation is forgotten")
        elif name == "/system":
            self._system = argument.strip() or None
            self._turns.clear()
            self._note("system prompt removed" if self._system is None else "system prompt set")
        elif name == "/help":
            self._console.print(_HELP, markup=False)
        else:
            self._note(f"there is no command {name}; /help lists them", style="red")

    def _note(self, text: str, *, style: str = "dim") -> None:
        self._console.print(f"\n[{_visible(text)}]", style=style, markup=False)


def describe(figures: Figures) -> str:
    """One line: TTFT, speed, cached tokens."""
    parts = []
    if figures.ttft_s is not None:
        parts.append(f"TTFT {figures.ttft_s:.3f} s")
    if figures.tokens_per_s is not None:
        parts.append(f"{figures.tokens_per_s:.1f} tokens/s")
    parts.append(f"{figures.generated_tokens} tokens")
    parts.append(f"{figures.cached_tokens} of {figures.prompt_tokens} prompt tokens cached")
    return ", ".join(parts)


def _visible(text: str) -> str:
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def _read_person() -> str | None:
    try:
        return input("\n> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def _read_pipe() -> str | None:
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None
