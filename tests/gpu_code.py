"""The CUDA kernels, compiled and assembled without a GPU, for `test_ptx` and `test_sass`.

``cuda.compile`` needs no driver, but for functions that kernels call it asks for the device all the same.
"""

from __future__ import annotations

import types as python

import strategies

FORMATS = [name for name, dtype in strategies.DTYPES.items() if dtype.itemsize > 1]

KERNELS = {
    "finish": ("finish", None, None),
    "codes": ("codes", None, False),
    "codes, strided": ("codes", None, True),
    **{f"tally {name}": ("tally", name, False) for name in FORMATS},
    **{f"between {name}": ("between", name, False) for name in FORMATS},
    **{f"{which} {name}, strided": (which, name, True) for which in ("tally", "between") for name in ("float32", "int64")},
}  # fmt: skip
"""Of each kernel: which it is, the format, and whether tensors are strided."""


def ptx_of(case, target, need, monkeypatch):
    """Return the PTX of one of `KERNELS`."""
    import pytest

    cuda = need("numba.cuda")
    need("numba_cuda")
    from fasthist.kernels.cuda import count, finish
    from fasthist.kernels.cuda.primitives import SIMULATED

    if SIMULATED:
        pytest.skip("the simulator compiles nothing")
    types = need("numba").types
    u32, u64, f64 = (
        types.Array(kind, 1, "C") for kind in (types.uint32, types.uint64, types.float64)
    )
    rows = (types.uint64,) * 4
    signatures = {
        "tally": (u64, u64, u32, u64, u64, f64, *rows),
        "codes": (u64, u64, u64, *rows),
        "between": (u64, u64, u64, f64, types.int64, types.int64, types.float64, *rows),
        "finish": (u64, u64, u64, f64, u32, f64, *rows[:3]),
    }
    makers = {
        "tally": count.tally,
        "between": count.count_between,
        "codes": lambda _, strided: count.count_codes(strided=strided),
        "finish": lambda *_, **__: finish.finish(),
    }
    which, name, strided = KERNELS[case]
    kernel = makers[which](name, strided=strided)
    device = python.SimpleNamespace(compute_capability=target)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    text, _ = cuda.compile(
        kernel.py_func, types.void(*signatures[which]), device=False, abi="numba", cc=target, output="ptx",
        launch_bounds=kernel.targetoptions.get("launch_bounds"),
    )  # fmt: skip
    return text


def assembled(text, target, need):
    """Return the cubin of a kernel, and what the assembler says of it: registers, spills, shared memory."""
    link = need("cuda.bindings.nvjitlink")
    handle = link.create(3, [f"-arch=sm_{target[0]}{target[1]}", "-Xptxas=-v", "-verbose"])
    try:
        link.add_data(handle, link.InputType.PTX, text.encode(), len(text), "kernel")
        link.complete(handle)
        log = bytearray(link.get_info_log_size(handle))
        link.get_info_log(handle, log)
        cubin = bytearray(link.get_linked_cubin_size(handle))
        link.get_linked_cubin(handle, cubin)
    finally:
        link.destroy(handle)
    return bytes(cubin), log.decode()
