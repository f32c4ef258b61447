"""Products of some rows of numbers with some rows of weights, in a processor's widest registers.

    tile:   inputs ──▶ 32 at a time
            x       [T rows]     each number is read once and met by four weights
            weight  [4 outputs]  each weight is read, and widened, once and met by T numbers
            sums    [T, 4] registers, added up at the end

Both lie row by row in memory, as torch has them, so a weight needs no order of its own. Written in
LLVM's terms because a compiler does not find such a tile in loops. What the processor lacks LLVM
spells out, at its expense; ``machine.py`` says what it has. Every sum is added up in one order,
however many rows there are: a row's result does not depend on the others.

*Source*: the register tiles of matrix libraries; Goto and van de Geijn,
https://doi.org/10.1145/1356052.1356053.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from radixserve_kernels.cpu.bfloats import add_products, narrow
from radixserve_kernels.cpu.machine import Machine
from radixserve_kernels.cpu.numbers import BFLOAT16, FLOAT32

SAME, INT8, INT4 = 0, 8, 4
"""Kinds of weights: the type of ``x``; a byte, with a scale for each output; half a byte, with a
scale and a zero for every 32."""

OUTPUTS = 4
"""Of one tile. A weight needs as many at least."""
CHUNK = 32
"""Inputs of one step. A weight needs as many at least."""

_BYTE, _HALF_WORD, _WORD, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
# May become one instruction that rounds once.
_FUSED = ("contract",)


@intrinsic(prefer_literal=True)
def tile(
    typing_context: Any,
    x: Any,
    x_stride: Any,
    weight: Any,
    weight_stride: Any,
    num_inputs: Any,
    scales: Any,
    scale_stride: Any,
    bias: Any,
    out: Any,
    out_stride: Any,
    ahead: Any,
    rows: Any,
    kind: Any,
    weight_kind: Any,
    lanes: Any,
    has_dots: Any,
) -> Any:
    """``out[t, o] = sum_i x[t, i] * weight[o, i] * scale + bias[o]`` for ``rows`` rows and four
    outputs.

    Addresses of the first row or output of each, and strides between rows, in bytes.
    ``scales``: for bytes one an output, for half bytes pairs for every 32 inputs; ``bias``: 0 is
    none. All are of ``kind``, ``x``, ``out`` too.
    ``ahead``: so many bytes behind what is read, memory is asked for what will be.
    The last five are constants: ``rows`` 1 to 6, ``kind`` as in ``numbers``, and a ``Machine``.
    """
    constants = (rows, kind, weight_kind, lanes, has_dots)
    if not all(isinstance(each, types.IntegerLiteral) for each in constants):
        return None
    shape = _Shape(*(each.literal_value for each in constants))
    signature = types.void(*([types.int64] * 11), *constants)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        # Others are never asked for: their registers would not do.
        if shape.rows <= Machine(shape.lanes, bool(shape.has_dots)).most_rows:
            _Tile(builder, shape, *arguments[:11]).generate()
        return context.get_dummy_value()

    return signature, generate


class _Shape(NamedTuple):
    rows: int
    kind: int
    weight_kind: int
    lanes: int
    has_dots: int


class _Tile:
    """One call's instructions, put down in order."""

    def __init__(
        self,
        builder: Any,
        shape: _Shape,
        x: Any,
        x_stride: Any,
        weight: Any,
        weight_stride: Any,
        num_inputs: Any,
        scales: Any,
        scale_stride: Any,
        bias: Any,
        out: Any,
        out_stride: Any,
        ahead: Any,
    ) -> None:
        self._builder = builder
        self._shape = shape
        self._dots = bool(shape.has_dots) and shape.kind == BFLOAT16
        # Pairs are summed as they are multiplied.
        self._lanes = 16 if self._dots else shape.lanes
        self._num_inputs = num_inputs
        self._bias = bias
        self._ahead = ahead
        self._x = self._strided(x, x_stride, shape.rows)
        self._weight = self._strided(weight, weight_stride, OUTPUTS)
        self._scales = self._strided(scales, scale_stride, OUTPUTS)
        self._out = self._strided(out, out_stride, shape.rows)
        zero = ir.Constant(ir.VectorType(_FLOAT, self._lanes), [0.0] * self._lanes)
        # Memory only until LLVM has put them into registers.
        self._sums = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(OUTPUTS)]
            for _ in range(shape.rows)
        ]

    def generate(self) -> None:
        builder = self._builder
        whole = builder.ashr(self._num_inputs, _long(5))
        with cgutils.for_range(builder, whole) as loop:
            self._step(builder.shl(loop.index, _long(5)), None)
        left = builder.and_(self._num_inputs, _long(CHUNK - 1))
        with builder.if_then(builder.icmp_signed("!=", left, _long(0)), likely=False):
            # The last 32 once more, without those that have been met.
            met = builder.trunc(builder.sub(_long(CHUNK), left), _HALF_WORD)
            self._step(builder.sub(self._num_inputs, _long(CHUNK)), met)
        self._finish()

    def _step(self, start: Any, met: Any | None) -> None:
        """Multiply by 32 inputs from ``start`` on, the first ``met`` of them left out."""
        builder = self._builder
        for row in self._weight:
            self._fetch(builder.add(row, self._weight_bytes(start)))
        width = CHUNK if self._dots else self._lanes
        for part in range(0, CHUNK, width):
            weights = [self._weights(output, start, part) for output in range(OUTPUTS)]
            keep = None if met is None else self._keep(met, part, width)
            for row, sums in zip(self._x, self._sums, strict=True):
                numbers = self._numbers(row, builder.add(start, _long(part)), width, keep)
                for total, some in zip(sums, weights, strict=True):
                    builder.store(self._multiply(builder.load(total), numbers, some), total)

    def _multiply(self, total: Any, numbers: Any, weights: Any) -> Any:
        builder = self._builder
        if not self._dots:
            product = builder.fmul(numbers, weights, flags=_FUSED)
            return builder.fadd(total, product, flags=_FUSED)
        return add_products(builder, total, numbers, weights)

    # ---- what is multiplied: bits of bfloat16 for dots, else float32 -----------------------------

    def _numbers(self, row: Any, start: Any, width: int, keep: Any | None) -> Any:
        """Of ``x``, ``width`` from input ``start`` on."""
        numbers = self._raw(row, start) if self._dots else self._floats(row, start, width)
        if keep is None:
            return numbers
        return self._builder.select(keep, numbers, ir.Constant(numbers.type, None))

    def _keep(self, met: Any, part: int, width: int) -> Any:
        builder = self._builder
        lanes = _constants(_HALF_WORD, range(part, part + width))
        return builder.icmp_signed(">=", lanes, self._splat(met, width))

    def _weights(self, output: int, start: Any, part: int) -> Any:
        """Of 32 weights from input ``start`` on, those from ``part`` on."""
        builder, which = self._builder, self._shape.weight_kind
        row = self._weight[output]
        if which == INT4:
            return self._from_half_bytes(output, start, part)
        if which == INT8:
            if not self._dots:
                return self._from_bytes(row, builder.add(start, _long(part)), self._lanes)
            return self._upper_halves(self._from_bytes(row, start, CHUNK))
        if self._dots:
            return self._raw(row, start)
        return self._floats(row, builder.add(start, _long(part)), self._lanes)

    def _raw(self, row: Any, start: Any) -> Any:
        """A bfloat16's bits, 32 of them."""
        return self._load(self._builder.add(row, _times(self._builder, start, 2)), _HALF_WORD, 32)

    def _floats(self, row: Any, start: Any, width: int) -> Any:
        size = 4 if self._shape.kind == FLOAT32 else 2
        return self._as_floats(self._builder.add(row, _times(self._builder, start, size)), width)

    def _as_floats(self, address: Any, width: int) -> Any:
        """``width`` numbers of the shape's kind."""
        builder = self._builder
        if self._shape.kind == FLOAT32:
            return self._load(address, _FLOAT, width)
        words = builder.zext(self._load(address, _HALF_WORD, width), ir.VectorType(_WORD, width))
        wide = builder.shl(words, _constants(_WORD, [16] * width))
        return builder.bitcast(wide, ir.VectorType(_FLOAT, width))

    def _from_bytes(self, row: Any, start: Any, width: int) -> Any:
        builder = self._builder
        some = self._load(builder.add(row, start), _BYTE, width)
        words = builder.sext(some, ir.VectorType(_WORD, width))
        return builder.sitofp(words, ir.VectorType(_FLOAT, width))

    def _upper_halves(self, numbers: Any) -> Any:
        """The bits of a bfloat16, of float32 numbers that it holds exactly."""
        count = numbers.type.count
        halves = self._builder.bitcast(numbers, ir.VectorType(_HALF_WORD, 2 * count))
        return self._shuffle(halves, halves, range(1, 2 * count, 2))

    def _from_half_bytes(self, output: int, start: Any, part: int) -> Any:
        """A group is 16 bytes: low halves are its first 16 inputs, high halves the others."""
        builder = self._builder
        group = builder.add(self._weight[output], builder.ashr(start, _long(1)))
        size = 8 if self._shape.kind == FLOAT32 else 4
        pair = self._as_floats(
            builder.add(self._scales[output], _times(builder, builder.ashr(start, _long(5)), size)),
            2,
        )
        scale = builder.extract_element(pair, ir.Constant(_WORD, 0))
        zero = builder.extract_element(pair, ir.Constant(_WORD, 1))
        if self._dots:
            return self._looked_up(group, scale, zero)
        width = self._lanes
        some = self._load(builder.add(group, _long(part % 16)), _BYTE, width)
        if part < 16:
            some = builder.and_(some, _constants(_BYTE, [15] * width))
        else:
            some = builder.lshr(some, _constants(_BYTE, [4] * width))
        some = builder.sub(some, _constants(_BYTE, [8] * width))
        words = builder.sext(some, ir.VectorType(_WORD, width))
        numbers = builder.sitofp(words, ir.VectorType(_FLOAT, width))
        return self._scaled(numbers, scale, zero)

    def _looked_up(self, group: Any, scale: Any, zero: Any) -> Any:
        """All 16 weights that a group has, made once, and 32 of them picked by their half bytes."""
        builder = self._builder
        table = self._scaled(ir.Constant(ir.VectorType(_FLOAT, 16), _STEPS), scale, zero)
        bits = narrow(builder, table, by_instruction=True)
        some = builder.zext(self._load(group, _BYTE, 16), ir.VectorType(_HALF_WORD, 16))
        low = builder.and_(some, _constants(_HALF_WORD, [15] * 16))
        high = builder.lshr(some, _constants(_HALF_WORD, [4] * 16))
        indices = self._shuffle(low, high, range(32))
        pick = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(indices.type, [indices.type, indices.type]),
            "llvm.x86.avx512.permvar.hi.512",
        )
        return builder.call(pick, [self._shuffle(bits, bits, range(32)), indices])

    def _scaled(self, numbers: Any, scale: Any, zero: Any) -> Any:
        builder, width = self._builder, numbers.type.count
        product = builder.fmul(numbers, self._splat(scale, width), flags=_FUSED)
        return builder.fadd(product, self._splat(zero, width), flags=_FUSED)

    # ---- results ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        builder = self._builder
        four = ir.VectorType(_FLOAT, OUTPUTS)
        bias = cgutils.alloca_once_value(builder, ir.Constant(four, [0.0] * OUTPUTS))
        with builder.if_then(builder.icmp_signed("!=", self._bias, _long(0))):
            builder.store(self._as_floats(self._bias, OUTPUTS), bias)
        for sums, out in zip(self._sums, self._out, strict=True):
            result = self._add_up([builder.load(total) for total in sums])
            if self._shape.weight_kind == INT8:
                scales = self._as_floats(self._scales[0], OUTPUTS)
                result = builder.fmul(result, scales, flags=_FUSED)
            result = builder.fadd(result, builder.load(bias), flags=_FUSED)
            if self._shape.kind == BFLOAT16:
                result = narrow(builder, result, by_instruction=self._dots)
            target = builder.inttoptr(out, result.type.as_pointer())
            builder.store(result, target, align=1)

    def _add_up(self, sums: list[Any]) -> Any:
        """Four registers to the four sums of their lanes."""
        builder, lanes = self._builder, self._lanes

        def interleave(first: Any, second: Any, offset: int, run: int) -> Any:
            """Of every four lanes, ``run`` at a time from each, from ``offset`` on."""
            picked: list[int] = []
            for start in range(offset, lanes + offset, 4):
                for begin in range(start, start + 2, run):
                    some = range(begin, begin + run)
                    picked += [*some, *(lane + lanes for lane in some)]
            return self._shuffle(first, second, picked)

        def folded(first: Any, second: Any, run: int) -> Any:
            return builder.fadd(
                interleave(first, second, 0, run), interleave(first, second, 2, run)
            )

        total = folded(folded(sums[0], sums[1], 1), folded(sums[2], sums[3], 1), 2)
        while lanes > OUTPUTS:
            lanes //= 2
            total = builder.fadd(
                self._shuffle(total, total, range(lanes)),
                self._shuffle(total, total, range(lanes, 2 * lanes)),
            )
        return total

    # ---- instructions ----------------------------------------------------------------------------

    def _strided(self, start: Any, stride: Any, count: int) -> list[Any]:
        builder = self._builder
        return [builder.add(start, builder.mul(stride, _long(index))) for index in range(count)]

    def _weight_bytes(self, count: Any) -> Any:
        which = self._shape.weight_kind
        if which == INT4:
            return self._builder.ashr(count, _long(1))
        if which == INT8:
            return count
        return _times(self._builder, count, 4 if self._shape.kind == FLOAT32 else 2)

    def _fetch(self, address: Any) -> None:
        builder = self._builder
        fetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD]),
            "llvm.prefetch.p0",
        )
        place = builder.inttoptr(builder.add(address, self._ahead), _BYTE.as_pointer())
        # To read, to keep in every cache, of data.
        builder.call(fetch, [place, *(ir.Constant(_WORD, each) for each in (0, 3, 1))])

    def _load(self, address: Any, element: Any, count: int) -> Any:
        place = self._builder.inttoptr(address, ir.VectorType(element, count).as_pointer())
        return self._builder.load(place, align=1)

    def _shuffle(self, first: Any, second: Any, lanes: Iterable[int]) -> Any:
        return self._builder.shuffle_vector(first, second, _constants(_WORD, lanes))

    def _splat(self, value: Any, count: int) -> Any:
        builder = self._builder
        none = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
        one = builder.insert_element(none, value, ir.Constant(_WORD, 0))
        return self._shuffle(one, none, [0] * count)


_STEPS = [float(step) for step in range(-8, 8)]


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)


def _times(builder: Any, value: Any, factor: int) -> Any:
    return builder.mul(value, _long(factor))


def _constants(element: Any, values: Iterable[int]) -> Any:
    each = [ir.Constant(element, value) for value in values]
    return ir.Constant(ir.VectorType(element, len(each)), each)
