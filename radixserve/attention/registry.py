"""Which attention backend serves which device: the one place that knows them all."""

from radixserve.attention.base import AttentionBackend, AttentionShape
from radixserve.attention.torch_backend import TorchAttention
from radixserve.errors import ConfigError


def make_attention(name: str, device: str, shape: AttentionShape) -> AttentionBackend:
    """The backend ``name`` ("auto": the best there is) for ``device``. Raises ``ConfigError``."""
    if shape.num_heads % shape.num_kv_heads != 0:
        raise ConfigError(
            f"{shape.num_heads} query heads cannot share {shape.num_kv_heads} key heads evenly"
        )
    if name in ("auto", "torch") and device == "cpu":
        return TorchAttention(shape)
    raise ConfigError(f"attention {name!r} does not run on device {device!r}; use 'auto'")
