"""The CUDA kernels, compiled for five generations of GPUs without one: what the text of PTX and the assembler tell.

``cuda.compile`` needs no driver, but for functions that kernels call it asks for the device all the same.
"""

from __future__ import annotations

import re
import types as python

import numpy as np
import pytest
import strategies

from fasthist.kernels.cuda import require

TARGETS = [(7, 5), (9, 0), (12, 0)]

FORMATS = [name for name, dtype in strategies.DTYPES.items() if dtype.itemsize > 1]

KERNELS = {
    "finish": ("finish", None, None),
    "codes": ("codes", None, False),
    "codes, strided": ("codes", None, True),
    **{f"tally {name}": ("tally", name, False) for name in FORMATS},
    **{f"between {name}": ("between", name, False) for name in FORMATS},
    **{f"{which} {name}, strided": (which, name, True) for which in ("tally", "between") for name in ("float32", "int64")},
}  # fmt: skip

EACH_KIND = [
    "finish", "codes", "tally float32", "tally float16", "tally float64", "tally int64", "between float32",
    "tally float32, strided",
]  # fmt: skip
"""What is compiled for every target; all others differ from one of these in how a pattern becomes a number."""

CASES = [((9, 0), name) for name in KERNELS] + [
    (target, name) for target in TARGETS if target != (9, 0) for name in EACH_KIND
]


@pytest.fixture
def compiled(need, monkeypatch):
    """Give a function that compiles one of `KERNELS`, and gives its PTX."""
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

    def make(case, target):
        which, name, strided = KERNELS[case]
        kernel = makers[which](name, strided=strided)
        device = python.SimpleNamespace(compute_capability=target)
        monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
        bounds = kernel.targetoptions.get("launch_bounds")
        signature = types.void(*signatures[which])
        text, _ = cuda.compile(
            kernel.py_func,
            signature,
            device=False,
            abi="numba",
            cc=target,
            output="ptx",
            launch_bounds=bounds,
        )
        return text

    return make


def assembled(text, target, need):
    """Give what the assembler says of a kernel: registers, spills, shared memory."""
    link = need("cuda.bindings.nvjitlink")
    handle = link.create(3, [f"-arch=sm_{target[0]}{target[1]}", "-Xptxas=-v", "-verbose"])
    try:
        link.add_data(handle, link.InputType.PTX, text.encode(), len(text), "kernel")
        link.complete(handle)
        log = bytearray(link.get_info_log_size(handle))
        link.get_info_log(handle, log)
    finally:
        link.destroy(handle)
    return log.decode()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("target", "case"), CASES, ids=str)
def test_a_kernel(target, case, compiled, need):
    which, name, strided = KERNELS[case]
    text = compiled(case, target)
    assert f".target sm_{target[0]}{target[1]}" in text
    # The elements of a contiguous tensor are read 16 bytes at a time, through the read-only path.
    wide = len(re.findall(r"ld\.global\.nc\.(?:v4\.[buf]32|v2\.b64)", text))
    assert wide == (0 if strided or which == "finish" else 1)
    # No loop of compare-and-swap, no array in local memory, no call of a function.
    assert not re.search(r"\.cas\.|\.local\.|\bcall\b", text)
    # Counting is an addition in shared memory of which nobody reads the result.
    adds = re.search(r"atom(\.relaxed\.sys)?\.shared\.add\.u32", text)
    assert bool(adds) == (which != "finish")
    log = assembled(text, target, need)
    assert re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    )[-1] == (("0",) * 3)
    registers = int(re.search(r"Used (\d+) registers", log)[1])
    shared = int(re.search(r"(\d+) bytes smem", log)[1])
    # Static shared memory ends at 48 KiB; blocks of 512 threads share 65,536 registers.
    assert shared <= 48 << 10
    assert registers <= 128
    occupied = not strided and (
        which == "codes"
        or (which == "tally" and name in ("float32", "bfloat16", "float16", "int16", "uint16"))
    )
    if occupied and target != (7, 5):  # which holds 1,024 threads
        assert registers <= 65536 // 512 // 3 // 8 * 8


def test_that_check_can_fail(need):
    need("numba_cuda")
    cuda, numba = need("numba.cuda"), need("numba")
    if not hasattr(cuda, "compile"):
        pytest.skip("the simulator compiles nothing")

    def spoilt(values, counts):
        held = cuda.shared.array(64, np.float32)
        cuda.atomic.max(held, 0, values[0])
        counts[0] = held[0]

    array = numba.types.Array(numba.types.float32, 1, "C")
    text, _ = cuda.compile(
        spoilt, numba.types.void(array, array), device=False, abi="numba", cc=(9, 0), output="ptx"
    )
    assert re.search(r"\.cas\.", text)
    assert "ld.global.nc.v4" not in text


def test_what_is_missing_is_said(monkeypatch):
    from fasthist.errors import DeviceError

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    require.cache_clear()
    with pytest.raises(
        DeviceError, match=r"numba-cuda is not installed. Run: pip install 'fasthist\[cuda13\]'"
    ):
        require()
