"""How many prompt tokens a step may carry while answers are streaming.

A chunk of a long prompt in the same step holds up every stream by the time the chunk takes. Pacing
bounds a step that carries both to ``stretch`` times a step without chunks or, if that is longer, to
what a step with ``MIN_CHUNK_TOKENS`` takes:

    streams only    |- d -|
    with a chunk    |- d -|---- n * c ----|   <=  stretch * d      hence  n = (stretch - 1) * d / c

``d`` (seconds of a step of one-token rows) and ``c`` (seconds per chunk token) are moving averages
of measured steps, so the bound follows the machine, the model and the load. The number of tokens
per chunk never changes a token that is generated, only when.

A chunk also costs what does not depend on its size: it grows with the context behind which the
chunk lies. It counts as part of ``c``, which is exact where ``n`` has settled, since there it is
measured at that very ``n``; until then it takes some more steps to get there. Where it alone is
more than ``(stretch - 1) * d`` no chunk would keep to the first bound, and the second one holds.

Knows no clock (durations are given to it), no requests and no pages.
"""

MIN_CHUNK_TOKENS = 16
"""A prompt always gets on, whatever the streams suffer."""

FIRST_CHUNK_TOKENS = 64
"""Before anything has been measured."""

_WEIGHT = 0.25
"""Of the newest measurement in a moving average."""


class Pacer:
    """Moving averages of step times. ``stretch=None`` never bounds anything."""

    def __init__(self, stretch: float | None) -> None:
        self._stretch = stretch
        self._streams_s: float | None = None
        self._token_s: float | None = None

    def observe(self, num_streams: int, num_chunk_tokens: int, step_s: float) -> None:
        """Take in a step: its one-token rows, its other tokens, and the seconds it took."""
        if num_chunk_tokens == 0:
            self._streams_s = _average(self._streams_s, step_s)
        elif num_streams == 0:
            # A step of its own amortises the weights' reading better than a mixed step can: it
            # serves as a first guess only.
            self._token_s = self._token_s or step_s / num_chunk_tokens
        else:
            streams_s = self._streams_s
            if streams_s is None:
                streams_s = self._streams_s = step_s / 2
            self._token_s = _average(
                self._token_s, max(step_s - streams_s, 0.05 * step_s) / num_chunk_tokens
            )

    @property
    def streams_s(self) -> float | None:
        """Seconds of a step of one-token rows; None until one has been measured."""
        return self._streams_s

    def max_chunk_tokens(self) -> int | None:
        """How many chunk tokens the next step may carry beside one-token rows. None: any."""
        if self._stretch is None:
            return None
        if self._streams_s is None or self._token_s is None:
            return FIRST_CHUNK_TOKENS
        return max(MIN_CHUNK_TOKENS, int((self._stretch - 1) * self._streams_s / self._token_s))


def _average(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
