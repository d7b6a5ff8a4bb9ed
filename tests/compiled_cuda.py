"""The CUDA kernels compiled for the CPU, with one block of one thread: the types of a GPU's arithmetic, without a GPU.

The simulator runs kernels as Python, where ``uint64 + int64`` is what numpy makes of it; compiled it is what Numba's
typing makes of it, which is the same for both targets. What is CUDA's own here is only the module that this one stands
in for.
"""

from __future__ import annotations

import importlib
import sys
import types as python

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

PACKAGE = "fasthist.kernels.cuda"


def namespace(name, **content):
    """Make a module, since Numba reads attributes of nothing else as constants."""
    module = python.ModuleType(name)
    vars(module).update(content)
    return module


def loader(bits, count):
    @intrinsic
    def load(_typing_context, address):
        of_one = types.uint32 if bits == 32 else types.uint64
        result = types.UniTuple(of_one, count) if count > 1 else of_one

        def generate(context, builder, signature, arguments):
            del signature
            kind = ir.IntType(bits)
            pointer = builder.inttoptr(arguments[0], kind.as_pointer())
            words = [builder.load(builder.gep(pointer, [ir.IntType(32)(i)])) for i in range(count)]
            if count > 1:
                return context.make_tuple(builder, result, words)
            return builder.zext(words[0], ir.IntType(64))

        return result(address), generate

    return load


def cast(target):
    kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}

    @intrinsic
    def change(_typing_context, value):
        def generate(context, builder, signature, arguments):
            del context, signature
            kind = kinds.get(target) or ir.IntType(target.bitwidth)
            return builder.bitcast(arguments[0], kind)

        return target(value), generate

    return change


@numba.njit
def shared_array(shape, dtype):
    return np.full(shape, 77).astype(dtype)  # not zeros: nobody clears a GPU's


@numba.njit
def atomic_add(array, index, value):
    old = array[index]
    array[index] = old + value
    return old


@numba.njit
def atomic_max(array, index, value):
    old = array[index]
    array[index] = max(old, value)
    return old


@numba.njit
def nothing():
    pass


@numba.njit
def smaller32(a, b):
    return np.fmin(a, b)


@numba.njit
def larger32(a, b):
    return np.fmax(a, b)


@numba.njit
def smaller_u32(a, b):
    return np.uint32(min(a, b))


class Kernel:
    """What a launch does: run the one block."""

    def __init__(self, function, blocks=None):
        del blocks
        self.run = numba.njit(function)

    def __getitem__(self, configuration):
        return self.run


def primitives():
    """Make what stands in for `fasthist.kernels.cuda.primitives`."""
    cuda = namespace(
        "cuda",
        blockIdx=namespace("blockIdx", x=0),
        gridDim=namespace("gridDim", x=1),
        threadIdx=namespace("threadIdx", x=0),
        blockDim=namespace("blockDim", x=1),
        shared=namespace("shared", array=shared_array),
        atomic=namespace("atomic", add=atomic_add, max=atomic_max),
        syncthreads=nothing,
    )
    return namespace(
        f"{PACKAGE}.primitives",
        SIMULATED=True,
        THREADS=512,
        cuda=cuda,
        kernel=Kernel,
        device=numba.njit,
        load_vector=loader(32, 4),
        load_byte=loader(8, 1),
        as_float32=cast(types.float32),
        as_float64=cast(types.float64),
        bits32=cast(types.uint32),
        bits64=cast(types.uint64),
        smaller32=smaller32,
        larger32=larger32,
        smaller_u32=smaller_u32,
    )


def load():
    """Import the modules that count on a GPU anew, with that in its place; give `tally_on_devices` and the device."""
    package = importlib.import_module(PACKAGE)
    known = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE + ".")}
    attributes = dict(vars(package))
    try:
        for name in known:
            if name not in (f"{PACKAGE}.plan", f"{PACKAGE}.slots"):
                del sys.modules[name]
        sys.modules[f"{PACKAGE}.primitives"] = primitives()
        tally = importlib.import_module(f"{PACKAGE}.tally")
        device = importlib.import_module(f"{PACKAGE}.device").open_device(0)
    finally:
        for name in [name for name in sys.modules if name.startswith(PACKAGE + ".")]:
            del sys.modules[name]
        sys.modules.update(known)
        vars(package).clear()
        vars(package).update(attributes)
    device.gpu.blocks_at_once = lambda *_: 1
    return tally.tally_on_devices, device
