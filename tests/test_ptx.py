"""The CUDA kernels, compiled for five generations of GPUs without one: what the text of PTX and the assembler tell."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gpu_code import KERNELS, assembled, ptx_of

from fasthist.kernels.cuda import require

TARGETS = [(7, 5), (9, 0), (12, 0)]

NARROW = ("float32", "bfloat16", "float16", "int16", "uint16")

EACH_KIND = [
    "finish", "codes", "tally float32", "tally float16", "tally float64", "tally int64", "between float32",
    "tally float32, strided",
]  # fmt: skip
"""What is compiled for every target; all others differ from one of these in how a pattern becomes a number."""

CASES = [((9, 0), name) for name in KERNELS] + [
    (target, name) for target in TARGETS if target != (9, 0) for name in EACH_KIND
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("target", "case"), CASES, ids=str)
def test_a_kernel(target, case, need, monkeypatch):
    which, name, strided = KERNELS[case]
    text = ptx_of(case, target, need, monkeypatch)
    assert f".target sm_{target[0]}{target[1]}" in text
    # The elements of a contiguous tensor are read 16 bytes at a time, through the read-only path.
    wide = len(re.findall(r"ld\.global\.nc\.(?:v4\.[buf]32|v2\.b64)", text))
    assert wide == (0 if strided or which == "finish" else 1)
    # No loop of compare-and-swap, no array in local memory, no call of a function.
    assert not re.search(r"\.cas\.|\.local\.|\bcall\b", text)
    # Counting is an addition in shared memory of which nobody reads the result.
    adds = re.search(r"atom(\.relaxed\.sys)?\.shared\.add\.u32", text)
    assert bool(adds) == (which != "finish")
    _, log = assembled(text, target, need)
    assert re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    )[-1] == (("0",) * 3)
    registers = int(re.search(r"Used (\d+) registers", log)[1])
    shared = int(re.search(r"(\d+) bytes smem", log)[1])
    # Static shared memory ends at 48 KiB; blocks of 512 threads share 65,536 registers.
    assert shared <= 48 << 10
    assert registers <= 128
    occupied = not strided and (which == "codes" or (which == "tally" and name in NARROW))
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
