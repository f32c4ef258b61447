"""Attention of many queries to one run of keys, as two matrix products with an exponential between.

For bfloat16 this is several times as fast on CPUs as torch's fused attention, whose inner products
are too small for the processor's matrix instructions; for float32 it is about equal. The price is a
matrix of scores, so queries are taken a block at a time.

bfloat16 products round each score to 8 bits: off by up to 1/512 of itself, which the exponential
would turn into an error of its weight. But softmax does not mind a constant. It is subtracted
*inside* the product, before rounding: queries have more columns, and keys a 1 there. There are
two ways from there, ``_exact`` and ``_guessed``:

    exact      scores = round(q @ k.T)                     only to find each row's maximum
               weights = exp(round(q @ k.T - maximum))     rounded to 1/512 of the distance from it
    guessed    weights = round(sigmoid(q @ k.T - guess - 40))

oneDNN applies the sigmoid to the product before it is rounded at all, and sigmoid(x) is exp(x) to a
relative e**x. So the guess need not be the maximum: that of a few sampled keys will do, as long as
the greatest weight is neither so large that sigmoid bends nor so small that it vanishes. Their sum
says so, is looked at, and where the guess was poor the block is done again the exact way. One
product and a pass over the scores less: 0.6 of the time.

A query times ``scale`` must be a bfloat16 again. Where the scale is no power of two, what rounding
leaves over fills D more columns, and the keys stand there twice.

Knows no pages and no batch.
"""

import math

import torch

from radixserve.attention.dense_keys import DenseKeys
from radixserve.attention.scratch import Scratch

MAX_SCORES = 1 << 20
"""Scores of one head that exist at a time: large enough to keep the matrix products efficient,
small enough to stay near the caches."""

MIN_BLOCK_TOKENS = 16
"""A block of queries is at least this long, however long the context: below it the products
starve."""

MIN_GUESSED_SCORES = 1 << 18
"""With fewer scores a head than this, all heads go into one batched product the exact way: sampling
and launching products head by head cost what guessing saves. (us by rows x keys a head, exact and
guessed, the sum of their parts: 48 x 1,024 270/350; 48 x 4,096 the same, measured as a whole;
96 x 4,096 1580/1110; 384 x 1,024 1420/1010.)
"""

NUM_SAMPLES = 64
"""Keys among which a row's maximum is guessed."""

SHIFT = 40.0
"""Above the guess the weights have e**40 to go before sigmoid reaches 1, below it e**-47 before
they vanish."""

MAX_ROUNDED = 512.0
"""Up to this a row's maximum is rounded by 1 at most. Beyond it the scores' distances would suffer
(at 9,000 weights by 6%), and their exponentials overflow in the end: for such scores, which
models with biased keys have, there is a third product, less what rounding left of the maximum."""

MAX_SUM, MIN_SUM = 1e-3, 1e-30
"""A row's weights add up to something between these, or the guess was poor: no weight is off by
more than 1e-3 of itself, half of what rounding it costs, and what has vanished has no weight."""


def _can_fuse_sigmoid() -> bool:
    """Whether this build of torch, on this processor, has oneDNN's products with a sigmoid, and
    rounds them behind it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own
        return False
    # Their product is -40.125, which no bfloat16 is: rounded first, it is off by an eighth.
    rows = torch.full((16, 32), -1.25, dtype=torch.bfloat16)
    rows[:, 0] = -1.375
    keys = torch.ones(16, 32, dtype=torch.bfloat16)
    try:
        weights = torch.ops.mkldnn._linear_pointwise(rows, keys, None, "sigmoid", [], "")
    except RuntimeError:
        return False
    expected = torch.full((16, 16), math.exp(-40.125), dtype=torch.float32)
    return torch.allclose(weights.float(), expected, rtol=1e-2, atol=0.0)


class ProductAttention:
    """Attends with keys and values of the same dtype as the queries: float32 or bfloat16."""

    def __init__(self, head_dim: int, scale: float, scratch: Scratch) -> None:
        self._head_dim = head_dim
        self._scale = scale
        # Multiplying by a power of two loses no bit, whatever the dtype.
        self._is_exact_scale = math.frexp(scale)[0] == 0.5
        self._scratch = scratch
        self._can_guess = _can_fuse_sigmoid()
        self._hidden = torch.empty(0, 0, dtype=torch.bool)
        self._classes = torch.empty(0, 16, dtype=torch.bfloat16)

    def key_width(self, dtype: torch.dtype) -> int:
        """How wide the rows of keys must be (``KeyCopies.by_head``)."""
        if dtype == torch.float32:
            return self._head_dim
        # Two more columns: for a maximum, and for what rounding left of it.
        return self._head_dim * (1 if self._is_exact_scale else 2) + 2

    def attend(
        self,
        query: torch.Tensor,
        dense: DenseKeys,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        *,
        is_causal: bool,
    ) -> None:
        """Every query against all ``L`` keys; if causal, query ``i`` of ``n`` against the first
        ``L - n + i + 1`` of them.

        ``query``: [n, Hkv, G, D]. *Mutates* ``out``, [n, Hkv, G, D] in its dtype or float32, and
        ``lse``, float32[n, Hkv, G], the logarithm of what each query's weights add up to.
        *Cost*: scratch for a block's scores, of each head the greater of ``MAX_SCORES`` and
        ``MIN_BLOCK_TOKENS * G * L`` (the guessed way: one head's at a time). Attending at 0.6 of
        the rate of a plain matrix product in bfloat16, half of that the exact way.
        """
        num_tokens, group, length = query.shape[0], query.shape[2], dense.keys.shape[1]
        packed = self._pack(query, dense.keys.shape[2])
        block = max(MIN_BLOCK_TOKENS, MAX_SCORES // (group * length))
        guesses = (
            self._can_guess
            and query.dtype != torch.float32
            and num_tokens * group * length >= MIN_GUESSED_SCORES
        )
        if guesses:
            self._guess(packed, dense.keys)
        for first in range(0, num_tokens, block):
            tokens = slice(first, min(first + block, num_tokens))
            visible = length - num_tokens + tokens.stop if is_causal else length
            rows = packed[:, tokens]
            k, v = dense.keys[:, :visible], dense.values[:, :visible]
            block_lse = None if lse is None else lse[tokens]
            if query.dtype == torch.float32:
                self._softmax(rows, k, v, out[tokens], block_lse, is_causal=is_causal)
            elif not (
                guesses and self._guessed(rows, k, v, out[tokens], block_lse, is_causal=is_causal)
            ):
                self._exact(rows, k, v, out[tokens], block_lse, is_causal=is_causal)

    # -- queries -----------------------------------------------------------------------------------

    def _pack(self, query: torch.Tensor, width: int) -> torch.Tensor:
        """The queries times the scale, head by head: [Hkv, n, G, width], the last columns 0."""
        num_tokens, num_kv_heads, group, head_dim = query.shape
        shape = (num_kv_heads, num_tokens, group, width)
        packed = self._scratch.take("query", shape, query.dtype)
        by_head, whole = query.transpose(0, 1), packed[..., :head_dim]
        if query.dtype == torch.float32 or self._is_exact_scale:
            torch.mul(by_head, self._scale, out=whole)
        else:
            scaled = self._scratch.take("scaled", (*shape[:3], head_dim), torch.float32)
            # In two steps: a bfloat16 tensor times a number is rounded, whatever it is put into.
            scaled.copy_(by_head).mul_(self._scale)
            whole.copy_(scaled)
            packed[..., head_dim : 2 * head_dim].copy_(scaled.sub_(whole))
        if query.dtype != torch.float32:
            packed[..., -2:].zero_()
        return packed

    def _guess(self, packed: torch.Tensor, keys: torch.Tensor) -> None:
        """Guess each row's maximum from some keys, and have it subtracted."""
        num_kv_heads, num_tokens, group, _ = packed.shape
        step = -(-keys.shape[1] // NUM_SAMPLES)
        rows = packed.view(num_kv_heads, num_tokens * group, -1)
        scores = torch.bmm(rows, keys[:, ::step].transpose(1, 2))
        guess = scores.amax(dim=-1).view(num_kv_heads, num_tokens, group)
        packed[..., -2] = guess.add_(SHIFT).neg_()

    # -- a block -----------------------------------------------------------------------------------
    # rows [Hkv, n, G, W], keys [Hkv, L, W], values [Hkv, L, D], out [n, Hkv, G, D], lse [n, Hkv, G]

    def _guessed(
        self,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        *,
        is_causal: bool,
    ) -> bool:
        """Returns False, with nothing written, if the guess was too poor."""
        num_kv_heads, num_tokens, group, width = rows.shape
        shape = (num_kv_heads, num_tokens, group)
        sums = self._scratch.take("sums", shape, torch.float32)
        attended = self._scratch.take("attended", (*shape, self._head_dim), rows.dtype)
        for head in range(num_kv_heads):
            weights = torch.ops.mkldnn._linear_pointwise(
                rows[head].view(-1, width), keys[head], None, "sigmoid", [], ""
            )
            if is_causal:
                self._hide(weights, num_tokens, 0.0)
            self._sum(weights, out=sums[head].view(-1))
            torch.mm(weights, values[head], out=attended[head].view(-1, self._head_dim))
        least, greatest = torch.aminmax(sums)
        if not (float(least) >= MIN_SUM and float(greatest) <= MAX_SUM):
            return False
        _write(attended, sums, -rows[..., -2].float(), out, lse)
        return True

    def _exact(
        self,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        *,
        is_causal: bool,
    ) -> None:
        num_kv_heads, num_tokens, group, width = rows.shape
        shape, num_rows = (num_kv_heads, num_tokens, group), num_tokens * group
        scores = self._scratch.take("scores", (num_kv_heads, num_rows, keys.shape[1]), rows.dtype)
        flat = rows.reshape(num_kv_heads, num_rows, width)

        def multiply() -> None:
            _multiply(flat, keys.transpose(1, 2), scores)
            if is_causal:
                self._hide(scores, num_tokens, -math.inf)

        flat[..., -2].zero_()
        multiply()
        maximum = scores.amax(dim=-1)
        torch.neg(maximum, out=flat[..., -2])
        multiply()
        base = maximum.float()
        if not float(maximum.abs().amax()) <= MAX_ROUNDED:
            rest = scores.amax(dim=-1)
            torch.neg(rest, out=flat[..., -1])
            multiply()
            base += rest
        if lse is None:
            # Weights that add up to 1 spare the result a rounding.
            torch.softmax(scores, dim=-1, out=scores)
            out.copy_(self._weigh(scores, values, num_tokens).transpose(0, 1))
            return
        sums = self._scratch.take("sums", shape, torch.float32)
        self._sum_few(scores.exp_().view(-1, scores.shape[-1]), out=sums.view(-1))
        _write(self._weigh(scores, values, num_tokens), sums, base.view(shape), out, lse)

    def _softmax(
        self,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        *,
        is_causal: bool,
    ) -> None:
        """In float32, where nothing is rounded that matters."""
        num_kv_heads, num_tokens, group, width = rows.shape
        shape, num_rows = (num_kv_heads, num_tokens, group), num_tokens * group
        scores = self._scratch.take("scores", (num_kv_heads, num_rows, keys.shape[1]), rows.dtype)
        _multiply(rows.reshape(num_kv_heads, num_rows, width), keys.transpose(1, 2), scores)
        if is_causal:
            self._hide(scores, num_tokens, -math.inf)
        maximum = None if lse is None else scores.amax(dim=-1)
        torch.softmax(scores, dim=-1, out=scores)
        out.copy_(self._weigh(scores, values, num_tokens).transpose(0, 1))
        if lse is not None and maximum is not None:
            # The greatest weight is exp(0) divided by their sum.
            lse.copy_((maximum - scores.amax(dim=-1).log_()).view(shape).transpose(0, 1))

    def _weigh(self, weights: torch.Tensor, values: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """``weights`` [Hkv, n * G, L] times ``values``: [Hkv, n, G, D], in scratch memory."""
        num_kv_heads, num_rows, _ = weights.shape
        shape = (num_kv_heads, num_rows, self._head_dim)
        attended = self._scratch.take("attended", shape, weights.dtype)
        _multiply(weights, values, attended)
        return attended.view(num_kv_heads, num_tokens, -1, self._head_dim)

    def _sum(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        """What each row of bfloat16[M, L] adds up to, float32[M].

        Every sixteenth of a row by itself, in a product with zeros and ones, so that what rounding
        does to their sums averages out; ``torch.sum`` into float32 casts all weights first.
        """
        length = weights.shape[1]
        if len(self._classes) < length:
            size = max(length, 2 * len(self._classes))
            with torch.inference_mode(False):
                self._classes = torch.eye(16, dtype=weights.dtype).repeat(-(-size // 16), 1)
        torch.sum(weights @ self._classes[:length], -1, dtype=torch.float32, out=out)

    def _sum_few(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        """The same without a product, where rows divide: 0.9 of a level's time at 48 x 4,096."""
        num_rows, length = weights.shape
        if length % 16:
            self._sum(weights, out)
            return
        sixteenths = weights.view(num_rows, 16, length // 16).sum(-1)
        torch.sum(sixteenths, -1, dtype=torch.float32, out=out)

    def _hide(self, scores: torch.Tensor, num_tokens: int, value: float) -> None:
        """Give scores [..., n * G, L] of keys behind their query this value."""
        if len(self._hidden) < num_tokens:
            size = max(num_tokens, 2 * len(self._hidden))
            with torch.inference_mode(False):
                self._hidden = torch.ones(size, size, dtype=torch.bool).triu_(1)
        hidden = self._hidden[:num_tokens, None, :num_tokens]
        length = scores.shape[-1]
        own = scores.view(-1, num_tokens, scores.shape[-2] // num_tokens, length)
        own[..., length - num_tokens :].masked_fill_(hidden, value)


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """``left @ right`` of each head: in one call where all heads' operands are one block of memory,
    else head by head, since torch would copy them."""
    if left.is_contiguous() and (right.is_contiguous() or right.mT.is_contiguous()):
        torch.bmm(left, right, out=out)
        return
    for head in range(len(left)):
        torch.mm(left[head], right[head], out=out[head])


def _write(
    attended: torch.Tensor,
    sums: torch.Tensor,
    base: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
) -> None:
    """Divide [Hkv, n, G, D] by what the weights add up to, which is ``sums * exp(base)``."""
    torch.div(attended.transpose(0, 1), sums.transpose(0, 1).unsqueeze(-1), out=out)
    if lse is not None:
        torch.add(sums.log().transpose(0, 1), base.transpose(0, 1), out=lse)
