"""Settings that every test shares."""

import os
import signal
from collections.abc import Iterator

# Where several processes test at once (pytest -n), their threads would take the cores from each
# other, and those of the servers that they start. Read when libraries are loaded: before torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OMP_WAIT_POLICY"] = "passive"

import pytest
import torch
from hypothesis import settings

# Read by Triton when kernels are defined, so before any test module is imported. Without a GPU the
# kernels run under the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell's background jobs ignore it, and tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ and are shared: how long an example takes says nothing about the code.
settings.register_profile("radixserve", deadline=None)
settings.load_profile("radixserve")


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """For modules that test what threads do together: two, whatever the other modules take."""
    from radixserve_kernels.cpu import compiling  # noqa: PLC0415 (numba is not always wanted)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    compiling.match_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        compiling.match_threads()
