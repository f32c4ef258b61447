"""How OpenMP's threads wait for each other; to be settled before torch is loaded.

A step is hundreds of parallel regions of some tens of microseconds, with a little to do by one
thread between them. At the end of each GNU OpenMP's threads spin, and then sleep; being woken costs
more than such a region. By default they spin for milliseconds. On a quiet machine that is free; as
soon as any other process wants one of the cores, the spinning thread uses up the time slice of the
one it waits for, and a decode step of 11 ms takes 65 and more.

So they spin for as long as it takes to get from one region to the next, some 30 microseconds, and
no longer: that is as fast as spinning for ever on a quiet machine. Beside a busy process the step's
time grows with the spin, so half of it would cost a quiet machine a tenth of its speed and save a
busy one a fifth (DECISIONS.md has the figures).
"""

from collections.abc import MutableMapping

_SPIN_COUNT = "2000"


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Ask GNU OpenMP, where it is loaded later, to spin briefly. What the user has set stays.

    *Mutates* ``environ``.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
