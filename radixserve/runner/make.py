"""From settings and a checkpoint directory to a runner that is ready for its first step."""

import logging
from pathlib import Path

import torch

from radixserve.attention.base import GraphAttention
from radixserve.attention.registry import find_attention, make_attention
from radixserve.config import EngineConfig
from radixserve.device.choose import resolve_device, resolve_dtype
from radixserve.device.transfer import make_transfer
from radixserve.errors import ConfigError
from radixserve.memory import (
    DEFAULT_SHARE,
    available_bytes,
    give_back_freed,
    host_pages_for,
    pages_for,
)
from radixserve.model.causal_lm import CausalLM, attention_shape
from radixserve.model.config import ModelConfig
from radixserve.model.layout import count_parameters, weight_bytes
from radixserve.model.loading import load_model
from radixserve.model.ops import LayerOps
from radixserve.model.torch_ops import TorchOps
from radixserve.runner.graphs import CudaRecorder, graph_sizes
from radixserve.runner.host_pages import HostPages
from radixserve.runner.kv_tensors import KVTensors, bytes_per_page
from radixserve.runner.runner import ModelRunner, RunnerInfo
from radixserve.runner.sizing import SHARE, CudaMemory, available_for_pages
from radixserve.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

WARM_UP_TOKENS = {"cpu": 64, "cuda": 1024}
"""Enough for every kernel to be built, the one that merges the parts of a long context included."""

COPY_SHARE = 0.1
"""Part of the host memory left beside the weights that a faster copy of tied embeddings may take:
the KV cache and other processes can use it too."""

IN_FLIGHT_ON_A_GPU = 2
"""One step runs while the next is planned and queued; more would only make the host's knowledge
older."""


def make_runner(
    config: EngineConfig, directory: Path, model_config: ModelConfig, *, progress: bool = True
) -> ModelRunner:
    """Load the model, make its KV tensors, run it once, and record its decode graphs.

    *Mutates* torch's number of threads, if ``config.num_threads`` is set.
    *Raises* ``ModelError`` for the checkpoint, ``ConfigError`` for a setting that does not fit
    it or this machine.
    *Cost*: reads the weights once; reserves the memory of the KV cache and of the host tier.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    # What cannot be is refused before the weights are read.
    config.batch_limits(device.type)
    make = find_attention(config.attention, attention_shape(model_config, config.page_size), device)
    try:
        model = load_model(
            directory,
            model_config,
            dtype=dtype,
            device=device,
            max_model_len=config.max_model_len,
            quantization=config.quantization,
            spare_bytes=_spare_bytes(model_config, dtype) if device.type == "cpu" else 0,
            compiled=_is_compiled(make(make_transfer(device)).name, device),
            progress=progress,
        )
    except torch.OutOfMemoryError as error:
        gib = weight_bytes(model_config, dtype.itemsize) / 2**30
        raise ConfigError(
            f"the weights ({gib:.2f} GiB in {dtype}) do not fit on {device}: {error}; "
            "free its memory, or choose a smaller model"
        ) from error
    # Weights were read, and then packed or quantised.
    give_back_freed()
    return assemble_runner(config, model, progress=progress)


def _is_compiled(attention: str, device: torch.device) -> bool:
    """Whether products and layer operations are compiled kernels, as attention is."""
    return device.type == "cpu" and attention == "cpu"


def _spare_bytes(model_config: ModelConfig, dtype: torch.dtype) -> int:
    """Host memory that a second copy of the embeddings may take."""
    left = available_bytes() - weight_bytes(model_config, dtype.itemsize)
    return max(0, int(COPY_SHARE * left))


def assemble_runner(config: EngineConfig, model: CausalLM, *, progress: bool = True) -> ModelRunner:
    """A runner for a model that is on its device already.

    *Raises* ``ConfigError``. *Cost*: reserves the memory of the KV cache and of the host tier, runs
    a few steps.
    """
    device, model_config = model.device, model.config
    transfer = make_transfer(device)
    attention = make_attention(
        config.attention, attention_shape(model_config, config.page_size), transfer
    )
    use_kernels = device.type == "cuda" or attention.name == "triton"
    ops = make_ops(attention.name, device)
    sampler = Sampler(
        model_config.vocab_size,
        transfer,
        use_kernel=use_kernels,
        is_compiled=device.type == "cpu" and attention.name == "cpu",
    )
    limits = config.batch_limits(device.type)
    page_bytes = bytes_per_page(
        num_layers=model_config.num_layers,
        page_size=config.page_size,
        num_kv_heads=model_config.num_kv_heads,
        head_dim=model_config.head_dim,
        dtype=model.dtype,
    )
    # Only now: what the weights took is no longer available.
    host_bytes = available_bytes()
    num_host_pages = host_pages_for(
        config,
        page_bytes=page_bytes,
        available=host_bytes,
        takes_kv_cache=device.type == "cpu",
    )
    if device.type == "cuda":
        available = available_for_pages(
            CudaMemory(device),
            model,
            attention,
            ops,
            sampler,
            transfer,
            limits=limits,
            page_size=config.page_size,
        )
        share = SHARE
    else:
        # What the host tier takes is not there for the pool.
        available, share = host_bytes - num_host_pages * page_bytes, DEFAULT_SHARE
    num_pages = pages_for(
        config,
        page_bytes=page_bytes,
        max_model_len=model.max_model_len,
        max_running=limits.max_running,
        available=available,
        share=share,
    )
    try:
        kv = KVTensors(
            num_layers=model_config.num_layers,
            num_pages=num_pages,
            page_size=config.page_size,
            num_kv_heads=model_config.num_kv_heads,
            head_dim=model_config.head_dim,
            dtype=model.dtype,
            transfer=transfer,
            use_kernel=use_kernels,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"the KV cache, {num_pages} pages of {page_bytes} bytes, cannot be had from this "
            "machine; lower num_pages or kv_cache_gib"
        ) from error
    host_pages = HostPages(num_host_pages, kv, transfer) if num_host_pages else None
    info = RunnerInfo(
        architecture=model_config.architecture,
        num_parameters=count_parameters(model_config),
        vocab_size=model_config.vocab_size,
        max_model_len=model.max_model_len,
        device=device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=model.quantization,
        attention=attention.name,
        page_size=config.page_size,
        num_pages=num_pages,
        kv_cache_bytes=kv.num_bytes,
        num_host_pages=num_host_pages,
        cascade_costs=attention.cascade_costs if config.cascade else None,
        limits=limits,
    )
    runner = ModelRunner(
        model,
        kv,
        attention,
        ops,
        sampler,
        transfer,
        info,
        host_pages=host_pages,
        max_in_flight=IN_FLIGHT_ON_A_GPU if device.type == "cuda" else 1,
    )
    if attention.name == "cpu":
        runner.use_decode_calls()
    longest = min(num_pages * config.page_size, model.max_model_len)
    num_warm_up = min(WARM_UP_TOKENS[device.type], longest)
    runner.warm_up(num_warm_up)
    if device.type == "cuda" and config.cuda_graphs:
        if isinstance(attention, GraphAttention):
            max_rows = limits.max_running
            runner.record_graphs(
                attention, CudaRecorder(device), graph_sizes(max_rows), progress=progress
            )
            # Recording has given torch's spare host memory back; the first request should not be
            # the one to ask for it anew.
            runner.warm_up(num_warm_up)
        else:
            logger.info("no decode graphs: attention %r has none", attention.name)
    logger.info(
        "%s in %s%s on %s, %s attention, %d thread(s)",
        info.architecture,
        info.dtype,
        "" if info.quantization == "none" else f" with {info.quantization} weights",
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        info.attention,
        torch.get_num_threads(),
    )
    return runner


def make_ops(attention: str, device: torch.device) -> LayerOps:
    """The layer operations that go with an attention backend on this device: Triton's kernels on a
    GPU or under its interpreter, compiled ones with "cpu", and else torch's."""
    # Imported only where they are used: not every platform has Triton, and numba takes a while.
    if device.type == "cuda" or attention == "triton":
        from radixserve.model.triton_ops import TritonOps  # noqa: PLC0415

        return TritonOps()
    if attention == "cpu":
        from radixserve.model.cpu_ops import CpuOps  # noqa: PLC0415

        return CpuOps()
    return TorchOps()
