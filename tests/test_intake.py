"""The same numbers through every door, without a copy; and a clear word to everything that is no array."""

from __future__ import annotations

import array
import ctypes
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import ml_dtypes
import numpy as np
import oracle
import pytest
import strategies

import fasthist
from fasthist import FasthistError, histogram, intake
from fasthist.dtypes import FORMATS
from fasthist.errors import ArrayError, DeviceError

# Quarters below 2**8: every format from float16 up holds them, and sums have no rounding.
NUMBERS = np.random.default_rng(0).integers(-1000, 1000, 240) / 4
NUMBERS[:8] = [np.nan, np.inf, -np.inf, -0.0, 0.0, np.nan, 1.0, -1.0]
WHOLE = np.random.default_rng(1).integers(-100, 100, 240)


class OnlyDLPack:
    """Exposes DLPack and nothing else."""

    def __init__(self, held, device=None):
        self.held = held
        self.device = device

    def __dlpack__(self, **arguments):
        return self.held.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.device or self.held.__dlpack_device__()


class OnlyArray:
    """Exposes ``__array__`` and nothing else."""

    def __init__(self, held):
        self.held = held

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.held, dtype=dtype)


def masked(a):
    """Hide as many other numbers among those of `a`."""
    both = np.repeat(a, 2)
    both[1::2] = 7
    return np.ma.array(both, mask=np.arange(both.size) % 2 == 1)


def memory_mapped(a, folder):
    a.tofile(folder / "numbers")
    return np.memmap(folder / "numbers", dtype=a.dtype, mode="r")


def as_tensor(a, need):
    return need("torch").from_numpy(a.copy())


def negative_view(a, need):
    torch = need("torch")
    imaginary = torch.complex(torch.zeros(a.size), as_tensor(-a, need)).conj().imag
    assert imaginary.is_neg()
    return imaginary


def with_offset(a, need):
    torch = need("torch")
    return torch.cat([torch.full((5,), 9.0), as_tensor(a, need)])[5:]


class Door(NamedTuple):
    """What a producer makes its array of, and what it may use."""

    numbers: np.ndarray
    need: Callable[[str], ModuleType]
    folder: Path | None = None


# How each library hands us the numbers of a float32 array; add a row, and every test of this file runs on it.
PRODUCERS = {
    **{
        f"numpy {name}": lambda door, layout=layout: layout(door.numbers)
        for name, layout in strategies.LAYOUTS.items()
        if not name.startswith("broadcast")
    },
    "numpy memmap": lambda door: memory_mapped(door.numbers, door.folder),
    "numpy masked": lambda door: masked(door.numbers),
    "numpy float64": lambda door: door.numbers.astype(np.float64),
    "numpy float16": lambda door: door.numbers.astype(np.float16),
    "numpy matrix": lambda door: door.numbers.reshape(12, 20).view(np.matrix),
    "list": lambda door: door.numbers.tolist(),
    "nested tuple": lambda door: tuple(map(tuple, door.numbers.reshape(12, 20).tolist())),
    "array.array": lambda door: array.array("f", door.numbers.tolist()),
    "memoryview": lambda door: memoryview(door.numbers),
    "memoryview of rows": lambda door: memoryview(door.numbers.reshape(12, 20)),
    "DLPack": lambda door: OnlyDLPack(door.numbers),
    "__array__": lambda door: OnlyArray(door.numbers),
    "Bits": lambda door: intake.Bits(door.numbers.view(np.uint32), "float32"),
    "torch": lambda door: as_tensor(door.numbers, door.need),
    "torch float64": lambda door: as_tensor(door.numbers, door.need).double(),
    "torch half": lambda door: as_tensor(door.numbers, door.need).half(),
    "torch transposed": lambda door: as_tensor(door.numbers, door.need).reshape(12, 20).T,
    "torch strided": lambda door: as_tensor(door.numbers, door.need).repeat_interleave(3)[1::3],
    "torch offset": lambda door: with_offset(door.numbers, door.need),
    "torch requires_grad": lambda door: as_tensor(door.numbers, door.need).requires_grad_(),
    "torch computed": lambda door: as_tensor(door.numbers, door.need).requires_grad_() * 1,
    "torch Parameter": lambda door: door.need("torch").nn.Parameter(
        as_tensor(door.numbers, door.need)
    ),
    "torch negative view": lambda door: negative_view(door.numbers, door.need),
    "torch DLPack": lambda door: OnlyDLPack(as_tensor(door.numbers, door.need)),
    "torch inference": lambda door: in_inference_mode(door.numbers, door.need),
    "jax": lambda door: door.need("jax.numpy").asarray(door.numbers),
    "jax float16": lambda door: door.need("jax.numpy").asarray(door.numbers, dtype="float16"),
    "jax transposed": lambda door: door.need("jax.numpy").asarray(door.numbers).reshape(12, 20).T,
    "tensorflow": lambda door: door.need("tensorflow").constant(door.numbers),
    "tensorflow Variable": lambda door: door.need("tensorflow").Variable(door.numbers),
    "tensorflow float16": lambda door: door.need("tensorflow").constant(
        door.numbers, dtype="float16"
    ),
    "pandas": lambda door: door.need("pandas").Series(door.numbers),
}


def in_inference_mode(a, need):
    with need("torch").inference_mode():
        return as_tensor(a, need) * 1


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("buckets", ["tensorflow", 13, strategies.EDGES], ids=str)
def test_the_same_numbers_through_every_door(producer, buckets, need, tmp_path):
    numbers = NUMBERS.astype(np.float32)
    made = PRODUCERS[producer](Door(numbers, need, tmp_path))
    found = histogram(made, buckets=buckets)
    assert found == histogram(numbers, buckets=buckets)
    if buckets == "tensorflow":
        assert oracle.differences(found, oracle.answer(numbers)) == []


INTEGER_PRODUCERS = {
    "numpy int8": lambda door: door.numbers.astype(np.int8),
    "numpy int64": lambda door: door.numbers,
    "big-endian": lambda door: door.numbers.astype(">i4"),
    "list": lambda door: door.numbers.tolist(),
    "array.array": lambda door: array.array("h", door.numbers.tolist()),
    "torch int16": lambda door: as_tensor(door.numbers, door.need).short(),
    "torch int64": lambda door: as_tensor(door.numbers, door.need),
    "jax": lambda door: door.need("jax.numpy").asarray(door.numbers.astype(np.int32)),
    "jax bfloat16": lambda door: door.need("jax.numpy").asarray(door.numbers, dtype="bfloat16"),
    "tensorflow": lambda door: door.need("tensorflow").constant(door.numbers),
    "tensorflow bfloat16": lambda door: door.need("tensorflow").constant(
        door.numbers, dtype="bfloat16"
    ),
    "ml_dtypes bfloat16": lambda door: door.numbers.astype(ml_dtypes.bfloat16),
    "torch bfloat16": lambda door: as_tensor(door.numbers, door.need).bfloat16(),
    "float32": lambda door: door.numbers.astype(np.float32),
}


@pytest.mark.parametrize("producer", INTEGER_PRODUCERS)
def test_the_same_whole_numbers_through_every_door(producer, need):
    found = histogram(INTEGER_PRODUCERS[producer](Door(WHOLE, need)))
    assert found == histogram(WHOLE.astype(np.float64))
    assert oracle.differences(found, oracle.answer(WHOLE)) == []


@pytest.mark.parametrize("value", [2, 2.0, True, np.float32(2), ml_dtypes.bfloat16(2), np.array(2)])
def test_a_scalar_is_one_value(value):
    h = histogram(value)
    assert (h.num, h.sum) == (1, float(value))


@pytest.mark.parametrize("name", FORMATS)
def test_every_dtype_of_torch(name, need):
    torch = need("torch")
    rng = np.random.default_rng(3)
    dtype = strategies.carrier(name)
    patterns = rng.integers(0, 1 << FORMATS[name].bits, (30, 41), dtype=dtype, endpoint=False)
    patterns = (patterns & 1) if name == "bool" else patterns
    tensor = torch.from_numpy(patterns.copy()).view(getattr(torch, name))
    values = strategies.from_patterns(patterns, name)
    expected = oracle.answer(strategies.decoded(values))
    for view in (tensor, tensor.T):
        assert oracle.differences(histogram(view), expected) == []
        found = intake.read(view)
        assert found.array.ctypes.data == tensor.data_ptr()
        assert found.format is FORMATS[name]
    part = tensor[3::2, 5:]
    assert (
        oracle.differences(histogram(part), oracle.answer(strategies.decoded(values[3::2, 5:])))
        == []
    )
    assert histogram(tensor[:0]).num == 0
    assert histogram(tensor[0, 0]).buckets == histogram(values[0, 0]).buckets


def test_an_expanded_tensor_counts_each_repetition(need):
    torch = need("torch")
    h = histogram(torch.tensor([[1.0], [2.0], [5.0]]).expand(3, 100_000))
    assert (h.num, h.sum, h.max) == (300_000, 800_000.0, 5.0)
    assert histogram(torch.tensor(3.0).expand(7)).num == 7


def test_a_tensor_is_kept_alive_while_it_is_read(need):
    torch = need("torch")
    dense = intake.read(torch.arange(100_000, dtype=torch.float32))
    torch.zeros(100_000).fill_(7.0)
    assert dense.array.view(np.float32).tolist() == list(range(100_000))


# -- never a copy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", strategies.LAYOUTS)
def test_an_array_of_numpy_is_not_copied(layout):
    made = strategies.LAYOUTS[layout](NUMBERS)
    dense = intake.read(made)
    assert np.shares_memory(dense.array, made)
    assert dense.array.shape == made.shape
    assert dense.array.strides == made.strides


@pytest.mark.parametrize(
    "producer", ["numpy memmap", "memoryview", "memoryview of rows", "DLPack", "__array__", "Bits"]
)
def test_what_comes_by_a_protocol_is_not_copied(producer, need, tmp_path):
    numbers = NUMBERS.astype(np.float32)
    made = PRODUCERS[producer](Door(numbers, need, tmp_path))
    memory = made if isinstance(made, np.ndarray) else numbers
    assert np.shares_memory(intake.read(made).array, memory)


@pytest.mark.parametrize(
    "producer", [name for name in PRODUCERS if name.startswith("torch ") and "negative" not in name]
)
def test_a_tensor_of_torch_is_not_copied(producer, need, tmp_path):
    tensor = PRODUCERS[producer](Door(NUMBERS.astype(np.float32), need, tmp_path))
    held = tensor.held if isinstance(tensor, OnlyDLPack) else tensor
    found = intake.read(tensor).array
    assert found.ctypes.data == held.data_ptr()
    assert found.strides == tuple(stride * held.element_size() for stride in held.stride())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "float8_e5m2"])
def test_an_array_of_jax_is_not_copied(dtype, need):
    made = need("jax.numpy").arange(1000).astype(dtype)
    assert intake.read(made).array.ctypes.data == made.unsafe_buffer_pointer()


def test_a_tensor_of_tensorflow_is_not_copied(need):
    made = need("tensorflow").constant(NUMBERS)
    assert np.shares_memory(intake.read(made).array, intake.read(made).array)


@pytest.mark.parametrize("producer", PRODUCERS)
def test_what_was_given_is_not_changed(producer, need, tmp_path):
    made = PRODUCERS[producer](Door(NUMBERS.astype(np.float32), need, tmp_path))
    before = intake.read(made).array.tobytes()
    for buckets in ("tensorflow", 5, [0.0, 1.0]):
        histogram(made, buckets=buckets)
    assert intake.read(made).array.tobytes() == before


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_is_found(name):
    made = np.ones(3, dtype=strategies.DTYPES[name])
    dense = intake.read(made)
    assert dense.format is FORMATS[name]
    assert dense.array.dtype == FORMATS[name].carrier
    assert (
        intake.read(intake.Bits(made.view(strategies.carrier(name)), name)).format is FORMATS[name]
    )


def test_only_what_is_not_masked_counts():
    values = np.ma.array([1.0, np.nan, 3.0, 4.0], mask=[False, True, True, False])
    assert histogram(values) == histogram([1.0, 4.0])
    assert histogram(np.ma.array([1.0], mask=[True])).num == 0
    assert histogram(np.ma.array([1.0, 2.0])).num == 2
    assert histogram(np.ma.masked).num == 0


# -- what is no array --------------------------------------------------------------------------------------------


NO_GPU = "numba-cuda is not installed|there is no NVIDIA driver"
"""What is missing where a GPU cannot be used."""


class FakeCuda:
    @property
    def __cuda_array_interface__(self):
        return {"shape": (3,), "typestr": "<f4", "data": (1, False), "version": 3}


class DeviceArray(OnlyDLPack, OnlyArray):
    """An array elsewhere, whose own ``__array__`` would copy it here without a word."""


def fake_sparse():
    return type("Coo", (), {"__module__": "some_sparse_library.coo"})()


NOT_ARRAYS = {
    "complex": (lambda: np.ones(2, complex), "dtype complex128 cannot be counted.*count .real and"),
    "complex number": (lambda: 1j, "dtype complex128 cannot be counted"),
    "complex objects": (
        lambda: np.array([1j, None]),
        "dtype object cannot be .*complex.*must be a real",
    ),
    "text": (lambda: "abc", "dtype <U3 cannot be counted .*convert the text to numbers"),
    "bytes": (lambda: b"12", "bytes is not an array of numbers.*numpy.frombuffer"),
    "list of text": (
        lambda: ["a", "b"],
        "dtype <U1 cannot be counted.*convert the text to numbers",
    ),
    "bytes in numpy": (lambda: np.array([b"a"]), r"dtype \|S1 cannot be counted.*convert the text"),
    "string dtype": (
        lambda: np.array(["a"], dtype=np.dtypes.StringDType()),
        r"StringDType\(\) cannot be counted.*convert the text",
    ),
    "objects": (lambda: [object()], "dtype object cannot be counted.*each element must be a real"),
    "an object": (object, "object is not an array of numbers.*pass an array, or"),
    "beyond float64": (lambda: [10**400], "cannot be counted .*too large.*that float64 can hold"),
    "ragged": (lambda: [[1.0], [1.0, 2.0]], "list gives no array .*inhomogeneous.*unequal length"),
    "times": (lambda: np.zeros(2, "M8[s]"), r'dtype datetime64\[s\] .*view the times as "int64"'),
    "durations": (lambda: np.zeros(2, "m8[s]"), r"dtype timedelta64\[s\] .*view the times"),
    "structured": (
        lambda: np.zeros(2, [("a", "f4")]),
        "dtype .*'a'.* cannot be .*count each field",
    ),
    "masked records": (
        lambda: np.ma.array([(1.0,)], dtype=[("a", "f4")]),
        "dtype .*'a'.* cannot be .*count each field",
    ),
    "void": (lambda: np.zeros(2, "V4"), r"dtype \|V4 cannot be counted"),
    "none": (lambda: None, "NoneType is not an array of numbers.*leave out"),
    "mapping": (
        lambda: {"w": [1.0]},
        r"dict is not an array of numbers.*histograms\(\) counts each",
    ),
    "set": (lambda: {1.0}, r"set is not an array of numbers.*pass list\(...\)"),
    "generator": (
        lambda: (x for x in [1.0]),
        r"generator is not an array of numbers.*pass list\(...\)",
    ),
    "values of a dict": (
        {"w": 1.0}.values,
        r"dict_values is not an array of numbers.*pass list\(...\)",
    ),
    "sparse": (fake_sparse, "Coo is sparse.*count its stored values"),
    "bits of no format": (
        lambda: intake.Bits(np.zeros(2, np.uint8), "float9"),
        "format 'float9' is not known",
    ),
    "bits of another width": (
        lambda: intake.Bits(np.zeros(2, np.uint8), "bfloat16"),
        "patterns of bfloat16 must be uint16, not uint8.*view them as such",
    ),
    "bits that are signed": (
        lambda: intake.Bits(np.zeros(2, np.int16), "bfloat16"),
        "must be uint16, not int16",
    ),
    "DLPack of no number": (
        lambda: OnlyDLPack(np.zeros(2, "M8[s]"), (1, 0)),
        "OnlyDLPack gives no DLPack capsule that numpy reads",
    ),
}


class OnlyInterface:
    """Exposes ``__array_interface__`` and nothing else."""

    def __init__(self, held):
        self.held = held
        self.__array_interface__ = held.__array_interface__


NINE = 4 / 9
# What is no layout of ours, or an unusual door, beside the same numbers as float64.
CONVERTED = {
    "objects": (lambda: np.array([1, 2.5, True, np.float16(3)], object), [1, 2.5, 1, 3]),
    "none inside": (lambda: [1.0, None], [1.0, np.nan]),
    "no objects": (lambda: np.array([], object), []),
    "long doubles": (
        lambda: np.array([1, "1e4000", "-1e4000"], np.longdouble),
        [1.0, *(float(np.longdouble(x)) for x in ("1e4000", "-1e4000"))],
    ),
    "Decimals": (lambda: [Decimal("1.5"), Decimal("NaN")], [1.5, np.nan]),
    "Decimal": (lambda: Decimal("-1.5"), [-1.5]),
    "Fraction": (lambda: Fraction(4, 9), [NINE]),
    "beyond 64 bits": (lambda: [2**70, -1], [2.0**70, -1]),
    "one beyond 64 bits": (lambda: 2**70, [2.0**70]),
    "text of numbers": (lambda: np.array(["1.5", "inf"]), [1.5, np.inf]),
    "string dtype": (lambda: np.array(["2"], np.dtypes.StringDType()), [2]),
    "bytes of numbers": (lambda: np.array([b"1.5"]), [1.5]),
    "string": (lambda: "1.5", [1.5]),
    **{
        name: (lambda name=name: np.arange(2).astype(getattr(ml_dtypes, name)), [0, 1])
        for name in (
            "int2",
            "uint2",
            "int4",
            "uint4",
            "float8_e4m3",
            "float8_e3m4",
            "float4_e2m1fn",
        )
    },
    "float8_e8m0fnu": (lambda: np.array([0.5, 4]).astype(ml_dtypes.float8_e8m0fnu), [0.5, 4]),
    "masked objects": (lambda: np.ma.array(np.array([1, 2], object), mask=[0, 1]), [1]),
    "range": (lambda: range(3), [0, 1, 2]),
    "deque": (lambda: deque([1.0, 2.0]), [1, 2]),
    "bytearray": (lambda: bytearray(b"\1\2"), [1, 2]),
    "ctypes": (lambda: (ctypes.c_float * 2)(1, 2), [1, 2]),
    "__array_interface__": (lambda: OnlyInterface(np.arange(3.0)), [0, 1, 2]),
    "objects by __array__": (lambda: OnlyArray(np.array([1, 2], object)), [1, 2]),
}


@pytest.mark.parametrize("case", CONVERTED)
@pytest.mark.filterwarnings("error")
def test_numbers_of_other_layouts_are_counted_as_float64(case):
    make, expected = CONVERTED[case]
    numbers = np.array(expected, np.float64)
    for buckets in ("auto", 3, "sqrt"):
        assert histogram(make(), buckets=buckets) == histogram(numbers, buckets=buckets)
    assert oracle.differences(histogram(make(), buckets="tensorflow"), oracle.answer(numbers)) == []


def test_other_layouts_of_torch_and_jax(need):
    torch, jnp = need("torch"), need("jax.numpy")
    powers = torch.tensor([0.5, 4.0]).to(torch.float8_e8m0fnu)
    assert histogram(powers) == histogram([0.5, 4.0])
    assert histogram(jnp.arange(3, dtype="int4")) == histogram([0.0, 1.0, 2.0])


def test_columns_of_pandas(need):
    pandas = need("pandas")
    for dtype in ("Int64", "Float64", "object", "float32", "category"):
        found = histogram(pandas.Series([1, 2, None], dtype=dtype))
        assert (found.num, found.sum, found.nan_count) == (2, 3, 1), dtype
    assert histogram(pandas.DataFrame({"a": [1, 2], "b": [0.5, 1]})).sum == 4.5
    with pytest.raises(ArrayError, match=r"string to float: 'x'.*each element"):
        histogram(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}))


@pytest.mark.parametrize("case", NOT_ARRAYS)
def test_what_is_no_array_of_numbers_is_refused_by_name(case):
    make, text = NOT_ARRAYS[case]
    with pytest.raises(ArrayError, match=f"^fc/weight: .*{text}") as caught:
        histogram(make(), name="fc/weight")
    assert "Accepted: dense arrays of bool, int8, " in str(caught.value)
    assert isinstance(caught.value, (FasthistError, TypeError))
    assert len(caught.value.args) == 1


def test_control_characters_in_a_name_are_shown_and_not_obeyed():
    with pytest.raises(ArrayError, match=r"^fc\\x1b\[31m/größe\\r: dtype complex128") as caught:
        histogram(1j, name="fc\x1b[31m/größe\r")
    assert str(caught.value).isprintable()
    error = DeviceError("x\a: a torch tensor\nis elsewhere")
    assert str(error) == "x\\x07: a torch tensor\nis elsewhere"


def test_the_leaf_of_a_tree_is_named():
    with pytest.raises(ArrayError, match=r"^net/fc/1: dtype complex128 cannot"):
        fasthist.histograms({"net": {"fc": [np.ones(2), np.ones(2, complex)]}})


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (FakeCuda, NO_GPU),
        (lambda: OnlyDLPack(NUMBERS, (2, 0)), NO_GPU),
        (lambda: DeviceArray(NUMBERS, (2, 0)), NO_GPU),
        (
            lambda: OnlyDLPack(NUMBERS, (10, 3)),
            r"DLPack device \(10, 3\) is out of reach.*Accepted:",
        ),
    ],
)
def test_an_array_on_another_device_is_refused(make, text):
    with pytest.raises(DeviceError, match=f"^x: .*{text}.*device=.cpu. copies"):
        histogram(make(), name="x")


def test_with_cpu_as_its_device_an_array_is_copied_by_its_producer():
    assert histogram(DeviceArray(NUMBERS, (2, 0)), device="cpu") == histogram(NUMBERS)
    for method in ("get", "copy_to_host"):
        elsewhere = FakeCuda()
        setattr(elsewhere, method, lambda: NUMBERS)
        assert histogram(elsewhere, device="cpu") == histogram(NUMBERS)
    with pytest.raises(DeviceError, match="FakeCuda on DLPack device None is out of reach"):
        histogram(FakeCuda(), device="cpu")


@pytest.mark.parametrize("device", [(1, 0), (3, 1), (11, 0)])
def test_memory_that_the_cpu_reads_is_read(device):
    # CPU, and host memory that CUDA or ROCm has pinned.
    class Pinned(OnlyDLPack):
        def __dlpack__(self, **arguments):
            del arguments
            return self.held.__dlpack__()

    assert intake.read(Pinned(NUMBERS, (1, 0))).array.size == NUMBERS.size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "from_dlpack", lambda made: made.held)  # numpy itself knows only (1, 0)
        assert np.shares_memory(intake.read(Pinned(NUMBERS, device)).array, NUMBERS)


def wrapper(torch):
    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        def __init__(self, inner):
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            raise NotImplementedError(function)

    return Wrapper(torch.ones(3))


def batched(torch):
    seen = []
    torch.vmap(lambda x: (seen.append(x), x)[1])(torch.ones(3, 2))
    return seen[0]


def freed(torch):
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


NOT_TENSORS = {
    "complex": (
        lambda torch: torch.ones(2, dtype=torch.complex64),
        "a complex torch tensor cannot be counted.*count .real and .imag",
    ),
    "coo": (
        lambda torch: torch.eye(2).to_sparse(),
        "a sparse_coo torch tensor is not dense.*.values",
    ),
    "csr": (lambda torch: torch.eye(2).to_sparse_csr(), "a sparse_csr torch tensor is not dense"),
    "meta": (
        lambda torch: torch.empty(2, device="meta"),
        "a torch tensor on the meta device has no values.*materialise it first",
    ),
    "quantised": (
        lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        r"a quantised torch tensor \(qint8\) is not a plain array.*count .int_repr",
    ),
    "nested": (
        lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "a nested torch tensor is not dense.*count each of .unbind",
    ),
    "jagged": (
        lambda torch: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
        "a nested torch tensor is not dense.*count .values",
    ),
    "patterns only": (
        lambda torch: torch.empty(2, dtype=torch.uint4),
        "torch dtype uint4 cannot be counted",
    ),
    "wrapper": (wrapper, "Wrapper holds no memory of its own.*pass the tensor that it wraps"),
    "batched": (batched, "Tensor has no memory to read"),
    "freed": (freed, "Tensor holds no memory of its own"),
    "not initialised": (lambda torch: torch.nn.LazyLinear(3).weight, "UninitializedParameter"),
}


@pytest.mark.parametrize("case", NOT_TENSORS)
def test_what_is_no_dense_tensor_of_torch_is_refused(case, need):
    make, text = NOT_TENSORS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls some of its own features prototypes
        made = make(need("torch"))
        with pytest.raises(ArrayError, match=f"^fc/weight: .*{text}") as caught:
            histogram(made, name="fc/weight")
    assert "Accepted: dense arrays of bool, int8, " in str(caught.value)


def test_a_tensor_on_another_device_is_refused(need):
    torch = need("torch")

    class Elsewhere(torch.Tensor):
        device = torch.device("xpu", 1)

    tensor = torch.ones(2).as_subclass(Elsewhere)
    with pytest.raises(
        DeviceError, match=r"^w: a torch tensor on xpu:1 is out of reach.*device=.cpu. copies"
    ):
        histogram(tensor, name="w")
    assert histogram(tensor, device="cpu").num == 2


def test_what_is_no_array_of_scipy_is_refused(need):
    sparse = need("scipy.sparse")
    for made in (sparse.csr_matrix(np.eye(3)), sparse.coo_array(np.eye(3))):
        with pytest.raises(ArrayError, match=r"^x: .* is sparse. .*count its stored values"):
            histogram(made, name="x")


def traced(jax):
    seen = []
    jax.jit(lambda x: (seen.append(x), x)[1])(jax.numpy.ones(3))
    return seen[0]


def deleted(jax):
    made = jax.numpy.ones(3)
    made.delete()
    return made


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda jax: jax.numpy.ones(3, "complex64"), "dtype complex64 cannot be counted"),
        (traced, "Tracer gives no array .*pass values that are computed already"),
        (deleted, "gives no array .*deleted"),
        (lambda jax: jax.random.key(0), "PRNGKeyArray gives no array"),
    ],
)
def test_what_is_no_array_of_jax_is_refused(make, text, need):
    with pytest.raises(ArrayError, match=f"^g: .*{text}"):
        histogram(make(need("jax")), name="g")


def symbolic(tf):
    seen = []
    tf.function(lambda x: (seen.append(x), x)[1])(tf.ones(3))
    return seen[0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda tf: tf.constant([1j]), "dtype complex128 cannot be counted"),
        (lambda tf: tf.constant(["a"]), "dtype object cannot be counted"),
        (lambda tf: tf.sparse.from_dense([[1.0, 0.0]]), "SparseTensor is sparse"),
        (lambda tf: tf.IndexedSlices(tf.ones(1), tf.constant([0])), "IndexedSlices are sparse"),
        (lambda tf: tf.ragged.constant([[1.0], [1.0, 2.0]]), "RaggedTensor is .*.flat_values"),
        (symbolic, "gives no array .*symbolic"),
    ],
)
def test_what_is_no_array_of_tensorflow_is_refused(make, text, need):
    with pytest.raises(ArrayError, match=f"^g: .*{text}"):
        histogram(make(need("tensorflow")), name="g")


# -- no import of a framework ------------------------------------------------------------------------------------

FRAMEWORKS = {"torch", "jax", "jaxlib", "tensorflow", "ml_dtypes", "pandas", "cupy"}


def modules_after(code):
    """Run code in a fresh interpreter and give the top-level modules it has loaded."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    place = Path(fasthist.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=place, check=True
    )
    return set(done.stdout.split())


def test_modules_after_can_tell():
    assert "ml_dtypes" in modules_after("import ml_dtypes")


def test_counting_imports_no_framework():
    loaded = modules_after(
        "import fasthist, numpy as np\n"
        "h = fasthist.histogram(np.ones(3, np.float16)) + fasthist.histogram([[1, 2]])\n"
        "assert h.num == 5\n"
        "fasthist.histograms({'w': np.ones(3)}, buckets=3)\n"
        "try:\n    fasthist.histogram(object())\nexcept fasthist.FasthistError:\n    pass"
    )
    assert "numba" in loaded
    assert loaded & FRAMEWORKS == set()


@pytest.mark.parametrize("code", ["", "; fasthist.Histogram", "; fasthist.Buckets([0, 1])"])
def test_importing_does_not_import_numba(code):
    loaded = modules_after(f"import fasthist{code}")
    assert loaded & (FRAMEWORKS | {"numba", "llvmlite", "google", "tensorboard", "click"}) == set()


def test_the_public_names_are_what_they_were_after_use():
    before = fasthist.histogram
    histogram([1.0])
    assert fasthist.histogram is before
    assert callable(fasthist.histograms)
    assert set(fasthist.__all__) <= set(dir(fasthist))
    with pytest.raises(AttributeError, match="module 'fasthist' has no attribute 'nothing'"):
        fasthist.nothing  # noqa: B018 - it raises
