"""How OpenMP's threads wait for each other; to be settled before torch is loaded.

A step is hundreds of parallel regions of some tens of microseconds. By default GNU OpenMP's threads
spin for milliseconds at the end of each. On a quiet machine that is free; as soon as any other
process wants one of the cores, the spinning thread uses up the time slice of the one it waits for,
and a decode step of 12 ms takes 60 to 240. A short spin before sleeping costs nothing measurable on
a quiet machine and keeps the step under 20 ms on a busy one (DECISIONS.md has the figures).
"""

from collections.abc import MutableMapping

_SPIN_COUNT = "300"


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Ask GNU OpenMP, where it is loaded later, to spin briefly. What the user has set stays.

    *Mutates* ``environ``.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
