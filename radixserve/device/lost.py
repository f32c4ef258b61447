"""A device that has failed for good, told from a step that has.

After most errors of a GPU (an illegal address, an assertion in a kernel, an ECC error) every later
call of the process fails, too: nothing is to be gained by going on. Memory that ran out is none of
these; torch has an error of its own for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from radixserve.errors import DeviceLostError


@contextmanager
def losing_device() -> Iterator[None]:
    """Work of a device. *Raises* ``DeviceLostError`` in place of torch's error."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLostError(f"the device has failed: {error}") from error
