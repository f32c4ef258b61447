"""A device that has failed for good is told from everything else that can go wrong."""

import pytest
import torch

from radixserve.device.lost import losing_device
from radixserve.errors import DeviceLostError


def test_a_failed_device_is_named() -> None:
    with pytest.raises(DeviceLostError, match="illegal memory access") as caught, losing_device():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert isinstance(caught.value.__cause__, torch.AcceleratorError)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("shapes")])
def test_what_a_process_can_get_over_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, losing_device():
        raise error
    assert caught.value is error


def test_nothing_wrong_is_nothing_raised() -> None:
    with losing_device():
        pass
