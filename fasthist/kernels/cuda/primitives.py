"""What the CUDA kernels need beyond `numba.cuda`, each in two forms: compiled, and in Python for the simulator.

Loads take addresses, as integers: so every dtype is read alike, and no producer's array has to be one that Numba knows.
The package that replaces numba-cuda one day needs these functions anew, and nothing else.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types

from fasthist.kernels.cuda import row_stack

with row_stack():
    from numba import cuda as numba_cuda

__all__ = [
    "SIMULATED", "THREADS", "as_float32", "as_float64", "bits32", "bits64", "cuda", "device", "kernel", "larger32",
    "load_byte", "load_vector", "numba_cuda", "smaller32", "smaller_u32",
]  # fmt: skip

SIMULATED = bool(config.ENABLE_CUDASIM)

THREADS = 512
"""Most threads of a block."""

if SIMULATED:
    from numba.cuda.simulator.kernel import _get_kernel_context

    _lock = threading.Lock()

    class _Shared:
        """Shared memory, of which the simulator's own may give two threads of a block two arrays for one."""

        def array(self, shape, dtype):
            frame = sys._getframe(1)
            arrays = vars(_get_kernel_context()).setdefault("fasthist_arrays", {})
            with _lock:
                return arrays.setdefault((frame.f_code, frame.f_lineno), np.zeros(shape, dtype))

    class _Simulated:
        """What `cuda` means inside a kernel that is simulated, in whatever module the function stands."""

        shared = _Shared()

        def __getattr__(self, name):
            return getattr(_get_kernel_context(), name)

    cuda: Any = _Simulated()

    def kernel(function, blocks=None):
        """Compile a kernel."""
        del blocks
        return numba_cuda.jit(function)

    def device(function):
        """Compile a function that kernels call."""
        return function

    def load_vector(address):
        """Give the four 32-bit words at an address that is a multiple of 16."""
        words = (ctypes.c_uint32 * 4).from_address(int(address))
        return tuple(np.uint32(word) for word in words)

    def load_byte(address):
        """Give the byte at an address."""
        return np.uint64(ctypes.c_uint8.from_address(int(address)).value)

    def as_float32(pattern):
        """Give the number that 32 bits are."""
        return np.uint32(pattern).view(np.float32)

    def as_float64(pattern):
        """Give the number that 64 bits are."""
        return np.uint64(pattern).view(np.float64)

    def bits32(number):
        """Give the bits of a float32."""
        return np.float32(number).view(np.uint32)

    def bits64(number):
        """Give the bits of a float64."""
        return np.float64(number).view(np.uint64)

    def smaller32(a, b):
        """Return the smaller of two float32, of which the first may be NaN and is left out then."""
        return np.fmin(a, b)

    def larger32(a, b):
        """Return the larger of two float32, likewise."""
        return np.fmax(a, b)

    def smaller_u32(a, b):
        """Return the smaller of two uint32."""
        return min(a, b)

else:
    from numba.cuda.extending import intrinsic, register_jitable

    cuda = numba_cuda

    _WORD = ir.IntType(32)

    def kernel(function, blocks=None):
        """Compile a kernel, in so few registers that a processor holds so many blocks of `THREADS`."""
        bounds = None if blocks is None else (THREADS, blocks)
        return cuda.jit(launch_bounds=bounds)(function)

    def device(function):
        """Compile a function that kernels call."""
        return register_jitable(function)

    def _load(builder, address, kind, align):
        pointer = builder.inttoptr(address, ir.PointerType(kind, addrspace=1))
        loaded = builder.load(pointer, align=align, typ=kind)
        # Nobody writes there while the kernel runs: `ld.global.nc`, through the read-only path.
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    @intrinsic
    def load_vector(_typing_context, address):
        """Give the four 32-bit words at an address that is a multiple of 16."""
        signature = types.UniTuple(types.uint32, 4)(types.uint64)

        def generate(context, builder, signature, arguments):
            # 128 bits in one instruction. Numba itself never emits that: of uint64 it makes 64 bits, of complex128 two
            # loads.
            words = _load(builder, arguments[0], ir.VectorType(_WORD, 4), 16)
            parts = [builder.extract_element(words, _WORD(i)) for i in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return signature, generate

    @intrinsic
    def load_byte(_typing_context, address):
        """Give the byte at an address."""

        def generate(_context, builder, _signature, arguments):
            return builder.zext(_load(builder, arguments[0], ir.IntType(8), 1), ir.IntType(64))

        return types.uint64(types.uint64), generate

    def _cast(source, target, kind):
        @intrinsic
        def cast(_typing_context, value):
            def generate(_context, builder, _signature, arguments):
                return builder.bitcast(arguments[0], kind)

            return target(source), generate

        return cast

    as_float32 = _cast(types.uint32, types.float32, ir.FloatType())
    as_float64 = _cast(types.uint64, types.float64, ir.DoubleType())
    bits32 = _cast(types.float32, types.uint32, _WORD)
    bits64 = _cast(types.float64, types.uint64, ir.IntType(64))

    def _choice(kind, generate):
        @intrinsic
        def choose(_typing_context, a, b):
            return kind(kind, kind), lambda _context, builder, _signature, pair: generate(
                builder, *pair
            )

        return choose

    def _extreme(name):
        """Make FMNMX of two float32: one instruction, where Python's `min` and `max` are a comparison and a choice."""

        def generate(builder, a, b):
            kind = ir.FunctionType(ir.FloatType(), (ir.FloatType(),) * 2)
            function = builder.module.declare_intrinsic(name, (ir.FloatType(),), kind)
            return builder.call(function, (a, b))

        return _choice(types.float32, generate)

    smaller32, larger32 = _extreme("llvm.minnum"), _extreme("llvm.maxnum")

    # Numba's `min` of two uint32 compares them as 64 bits.
    smaller_u32 = _choice(
        types.uint32,
        lambda builder, a, b: builder.select(builder.icmp_unsigned("<", a, b), a, b),
    )
