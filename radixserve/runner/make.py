"""From settings and a checkpoint directory to a runner that is ready for its first step."""

import logging
import platform
from pathlib import Path

import torch

from radixserve.attention.registry import make_attention
from radixserve.config import EngineConfig
from radixserve.errors import ConfigError
from radixserve.memory import available_bytes, pages_for
from radixserve.model.config import ModelConfig
from radixserve.model.layout import count_parameters
from radixserve.model.loading import load_model
from radixserve.runner.kv_tensors import KVTensors, bytes_per_page
from radixserve.runner.runner import ModelRunner, RunnerInfo
from radixserve.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

WARM_UP_TOKENS = 64


def make_runner(
    config: EngineConfig, directory: Path, model_config: ModelConfig, *, progress: bool = True
) -> ModelRunner:
    """Load the model, make its KV tensors, and run it once.

    *Mutates* torch's number of threads, if ``config.num_threads`` is set.
    *Raises* ``ModelError`` for the checkpoint, ``ConfigError`` for a setting that does not fit
    it or this machine.
    *Cost*: reads the weights once; reserves the KV cache's memory.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # "auto" and "cpu" mean the same until there is another device.
    device = torch.device("cpu")
    dtype = resolve_dtype(config.dtype)
    model = load_model(
        directory,
        model_config,
        dtype=dtype,
        device=device,
        max_model_len=config.max_model_len,
        progress=progress,
    )
    shape = model.attention_shape(config.page_size)
    attention = make_attention(config.attention, device.type, shape)
    page_bytes = bytes_per_page(
        num_layers=model_config.num_layers,
        page_size=config.page_size,
        num_kv_heads=model_config.num_kv_heads,
        head_dim=model_config.head_dim,
        dtype=dtype,
    )
    # Only now: what the weights took is no longer available.
    num_pages = pages_for(
        config,
        page_bytes=page_bytes,
        max_model_len=model.max_model_len,
        available=available_bytes(),
    )
    try:
        kv = KVTensors(
            num_layers=model_config.num_layers,
            num_pages=num_pages,
            page_size=config.page_size,
            num_kv_heads=model_config.num_kv_heads,
            head_dim=model_config.head_dim,
            dtype=dtype,
            device=device,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"the KV cache, {num_pages} pages of {page_bytes} bytes, cannot be had from this "
            "machine; lower num_pages or kv_cache_gib"
        ) from error
    info = RunnerInfo(
        architecture=model_config.architecture,
        num_parameters=count_parameters(model_config),
        vocab_size=model_config.vocab_size,
        max_model_len=model.max_model_len,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        attention=attention.name,
        page_size=config.page_size,
        num_pages=num_pages,
        kv_cache_bytes=kv.num_bytes,
    )
    runner = ModelRunner(model, kv, attention, Sampler(model_config.vocab_size, device), info)
    runner.warm_up(min(WARM_UP_TOKENS, model.max_model_len, num_pages * config.page_size))
    logger.info(
        "%s in %s on %s, %d thread(s)",
        info.architecture,
        info.dtype,
        info.device,
        torch.get_num_threads(),
    )
    return runner


def resolve_dtype(name: str) -> torch.dtype:
    """The type that "float32", "bfloat16" or "auto" means on this machine's processor."""
    if name == "auto":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 in hardware.

    torch has no public question for it; an emulated product would be slower than float32.
    """
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if machine in ("aarch64", "arm64") and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
