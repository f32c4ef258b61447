"""What "auto" means, and what is refused."""

import platform

import pytest
import torch

from radixserve.device import choose
from radixserve.device.choose import resolve_device, resolve_dtype
from radixserve.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("has_hardware", [True, False])
def test_dtype_of_a_processor(has_hardware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "multiplies_bfloat16", lambda: has_hardware)
    assert resolve_dtype("auto", CPU) == (torch.bfloat16 if has_hardware else torch.float32)
    assert resolve_dtype("float32", CPU) == torch.float32
    assert resolve_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="float16 is for GPUs"):
        resolve_dtype("float16", CPU)


@pytest.mark.parametrize("has_hardware", [True, False])
def test_dtype_of_a_gpu(has_hardware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_supported(including_emulation: bool) -> bool:
        return has_hardware and not including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert resolve_dtype("auto", CUDA) == (torch.bfloat16 if has_hardware else torch.float16)
    assert resolve_dtype("float16", CUDA) == torch.float16


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_any_processor_can_be_asked(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert choose.multiplies_bfloat16() in (True, False)


def test_a_gpu_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert resolve_device("auto") == CUDA
    assert resolve_device("cuda") == CUDA
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("built_for", [None, "13.0"])
def test_a_gpu_that_is_not_there(built_for: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    assert resolve_device("auto") == CPU
    with pytest.raises(ConfigError, match=f"{built_for or 'a CPU build'}.* finds no GPU"):
        resolve_device("cuda")
