"""Writing loops over vectors of floats and compiling them for this processor, with llvmlite.

A kernel is written once in Python against `VectorIR`, whose values are vectors of floats, and compiled at its first
use in about a tenth of a second. Nothing is reordered behind the writer's back: sums are taken as written. Import
only inside functions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
BFLOAT = ir.IntType(16)
"""bfloat16 in memory: the upper half of a float32. Vectors in registers are float32 always."""
BFLOAT_NAN, HALF_UNIT = 0x7FC0, 0x7FFF
LOG2_E, LN_2_HIGH, LN_2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
EXP_TERMS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
"""Of (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, highest first (Cephes' expf)."""
LOWEST = -87.0
"""Smaller exponents give e^-87, which is as good as nothing beside the 1 of a softmax's largest."""


@cache
def width() -> int:
    """Number of floats in a vector of this processor: 16 with AVX-512, else 8."""
    return 16 if llvm.get_host_cpu_features().get("avx512f") else 8


def _machine() -> Any:
    """This processor, as LLVM's code generator; what is compiled with it owns it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )


class Variable:
    """A value that loops change, in a place of the kernel's stack.

    Args:
        vec: The kernel it belongs to.
        initial: Its first value.
    """

    def __init__(self, vec: VectorIR, initial: Any) -> None:
        self._vec = vec
        with vec.builder.goto_entry_block():
            self._place = vec.builder.alloca(initial.type)
        self.set(initial)

    def get(self) -> Any:
        """Read its value at this point of the kernel."""
        return self._vec.builder.load(self._place)

    def set(self, value: Any) -> None:
        """Write its value at this point of the kernel."""
        self._vec.builder.store(value, self._place)


class VectorIR:
    """Builds one kernel's instructions; see `compile_kernel`.

    Args:
        builder: The builder of llvmlite, at the place where instructions go.
        module: Its module.
        lanes: Floats in a vector.

    Attributes:
        width: Floats in a vector.
        vector: The type of a vector of float32.
        whole: The type of a vector of int32.
    """

    def __init__(self, builder: Any, module: Any, lanes: int) -> None:
        self.builder, self.width = builder, lanes
        self.vector, self.whole = ir.VectorType(FLOAT, lanes), ir.VectorType(INT32, lanes)
        self._module = module

    def splat(self, scalar: Any) -> Any:
        """Put a float value, or a Python float, into every lane."""
        if isinstance(scalar, float):
            return ir.Constant(self.vector, [scalar] * self.width)
        return self._spread(scalar, self.vector)

    def _spread(self, scalar: Any, kind: Any) -> Any:
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, INT32(0))
        return self.builder.shuffle_vector(one, one, ir.Constant(self.whole, [0] * self.width))

    def count_from(self, first: Any) -> Any:
        """Make the vector `first`, `first` + 1, ... of int32 from an int64 value."""
        steps = ir.Constant(self.whole, list(range(self.width)))
        return self.builder.add(self._spread(self.builder.trunc(first, INT32), self.whole), steps)

    def at_most(self, left: Any, right: Any) -> Any:
        """Compare `left` <= `right` lane by lane, both int32; a single value stands for all lanes."""
        left, right = (
            x if isinstance(x.type, ir.VectorType) else self._spread(x, self.whole) for x in (left, right)
        )
        return self.builder.icmp_signed("<=", left, right)

    def load(self, base: Any, index: Any, kind: Any = None) -> Any:
        """Load a vector from `base[index]` on; the address need not be a multiple of the vector's size.

        Args:
            base: Pointer to the array; bfloat16 becomes float32.
            index: int64 element at which the vector begins.
            kind: Type of the vector; None is float32.

        Returns:
            The vector.
        """
        pointer = self.builder.gep(base, [index])
        if base.type.pointee == BFLOAT:
            return self._widened(self.builder.load(self._as_halves(pointer), align=2))
        wide = self.builder.bitcast(pointer, (kind or self.vector).as_pointer())
        return self.builder.load(wide, align=4)

    def _as_halves(self, pointer: Any) -> Any:
        return self.builder.bitcast(pointer, ir.VectorType(BFLOAT, self.width).as_pointer())

    def _widened(self, halves: Any) -> Any:
        bits = self.builder.zext(halves, self.whole)
        return self.builder.bitcast(self.builder.shl(bits, self._whole(16)), self.vector)

    def _whole(self, number: int) -> Any:
        return ir.Constant(self.whole, [number] * self.width)

    def _halves(self, value: Any) -> Any:
        """Round float32 to bfloat16, to the nearest and in a tie to the even one; NaN stays NaN."""
        b = self.builder
        bits = b.bitcast(value, self.whole)
        even = b.and_(b.lshr(bits, self._whole(16)), self._whole(1))
        rounded = b.lshr(b.add(bits, b.add(even, self._whole(HALF_UNIT))), self._whole(16))
        kept = b.select(b.fcmp_unordered("uno", value, value), self._whole(BFLOAT_NAN), rounded)
        return b.trunc(kept, ir.VectorType(BFLOAT, self.width))

    def rounded(self, value: Any, kind: Any) -> Any:
        """Round a vector to what an array of `kind`, FLOAT or BFLOAT, would hold of it."""
        return value if kind == FLOAT else self._widened(self._halves(value))

    def scalar(self, base: Any, index: Any) -> Any:
        """Load the number at `base[index]`."""
        return self.builder.load(self.builder.gep(base, [index]))

    def each(self, base: Any, index: Any) -> Any:
        """Load the float at `base[index]` into every lane."""
        return self.splat(self.scalar(base, index))

    def store(self, value: Any, base: Any, index: Any, where: Any = None) -> None:
        """Store a vector from `base[index]` on; lanes in which `where` is false keep what memory holds.

        Args:
            value: The vector.
            base: Pointer to the array; for bfloat16 the vector is rounded.
            index: int64 element at which the vector begins.
            where: Vector of bool; None stores all lanes.
        """
        if where is not None:
            value = self.builder.select(where, value, self.load(base, index))
        if base.type.pointee == BFLOAT:
            self.builder.store(self._halves(value), self._as_halves(self.builder.gep(base, [index])), align=2)
            return
        wide = self.builder.bitcast(self.builder.gep(base, [index]), self.vector.as_pointer())
        self.builder.store(value, wide, align=4)

    def total(self, x: Any) -> Any:
        """Add up the lanes, halves of the vector at a time; the result is in every lane."""
        return self._folded(x, self.builder.fadd)

    def highest(self, x: Any) -> Any:
        """Take the largest lane into every lane."""
        return self._folded(x, self.largest)

    def _folded(self, x: Any, two: Callable[[Any, Any], Any]) -> Any:
        distance = self.width // 2
        while distance:
            turned = [(i + distance) % self.width for i in range(self.width)]
            x = two(x, self.builder.shuffle_vector(x, x, ir.Constant(self.whole, turned)))
            distance //= 2
        return x

    def root(self, x: Any) -> Any:
        """Compute the square root in each lane."""
        return self._call("sqrt", x)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Compute a * b + c in each lane with one rounding."""
        return self._call("fma", a, b, c)

    def dot(self, left: Sequence[Any], right: Sequence[Any]) -> Any:
        """Compute left[0] * right[0] + left[1] * right[1] + ... in each lane, summed from the first to the last."""
        out = self.builder.fmul(left[0], right[0])
        for a, b in zip(left[1:], right[1:], strict=True):
            out = self.fma(a, b, out)
        return out

    def largest(self, a: Any, b: Any) -> Any:
        """Take the larger of `a` and `b` in each lane; where one is NaN, `b`."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def size(self, x: Any) -> Any:
        """Compute |x| in each lane."""
        return self._call("fabs", x)

    def exp(self, x: Any) -> Any:
        """Compute e^x in each lane for x <= 0, to about two units in the last place; above 0 the result is undefined.

        With n = round(x / ln 2) and r = x - n ln 2, e^x = 2^n e^r; e^r is a polynomial in r, and 2^n is written into
        the exponent bits. Arguments below `LOWEST` give e^LOWEST; NaN stays NaN.

        Source: `expf` of the Cephes library (S. L. Moshier): the polynomial and the split of ln 2 into two parts.
        """
        b = self.builder
        x = self.largest(self.splat(LOWEST), x)  # in this order a NaN stays one
        n = self._call("rint", b.fmul(x, self.splat(LOG2_E)))
        r = self.fma(n, self.splat(-LN_2_LOW), self.fma(n, self.splat(-LN_2_HIGH), x))
        series = self.splat(EXP_TERMS[0])
        for term in EXP_TERMS[1:]:
            series = self.fma(series, r, self.splat(term))
        series = b.fadd(self.fma(b.fmul(r, r), series, r), self.splat(1.0))
        biased = b.add(b.fptosi(n, self.whole), ir.Constant(self.whole, [127] * self.width))
        power = b.shl(biased, ir.Constant(self.whole, [23] * self.width))
        return b.fmul(series, b.bitcast(power, self.vector))

    def _call(self, name: str, *values: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * len(values))
        full = f"llvm.{name}.v{self.width}f32"
        function = self._module.globals.get(full) or ir.Function(self._module, kind, full)
        return self.builder.call(function, values)

    @contextmanager
    def loop(self, start: Any, stop: Any) -> Iterator[Any]:
        """Count from `start` to `stop` - 1; what is written inside the `with` block is the loop's body.

        Args:
            start: First int64 value.
            stop: int64 value behind the last.

        Yields:
            The counter.
        """
        counter = Variable(self, start)
        head, body, done = (self.builder.append_basic_block(n) for n in ("head", "body", "done"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(self.builder.icmp_signed("<", counter.get(), stop), body, done)
        self.builder.position_at_end(body)
        yield counter.get()
        counter.set(self.builder.add(counter.get(), INT64(1)))
        self.builder.branch(head)
        self.builder.position_at_end(done)


def compile_kernel(
    name: str, pointers: Sequence[Any], numbers: int, lanes: int, write: Callable[..., None]
) -> Callable[..., None]:
    """Compile a kernel.

    Args:
        name: Its name.
        pointers: The element types of the arrays it is given, FLOAT, BFLOAT, INT32 or INT64.
        numbers: How many 64-bit integers it is given behind them.
        lanes: Floats in a vector, best `width()`.
        write: Called with a `VectorIR` and the arguments; writes the kernel's body.

    Returns:
        What runs it, given addresses and integers; other threads run meanwhile.
    """
    machine = _machine()
    module = ir.Module(name)
    module.triple = machine.triple
    kinds = [*(kind.as_pointer() for kind in pointers), *[INT64] * numbers]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    for argument in function.args[: len(pointers)]:
        argument.add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block())
    write(VectorIR(builder, module, lanes), *function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(parsed, passes)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    address = engine.get_function_address(name)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), *[ctypes.c_int64] * numbers)(address)
    call.engine = engine  # type: ignore[attr-defined]  # the code lives as long as this does
    return call
