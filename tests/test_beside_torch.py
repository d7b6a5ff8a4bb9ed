"""The same calls beside torch's own writer: the same values in the file, or a reason why not."""

from __future__ import annotations

import datetime
import math
import re
import warnings
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from event_files import Event, files, records

from fasthist import FasthistError, SummaryWriter

NORMAL = np.random.default_rng(11).normal(0, 3, 600)
WHOLE = np.random.default_rng(12).integers(0, 100, 300)
SPECIAL = np.array([1.0, np.nan, -2.0, np.inf])
EDGES = [-4.0, -1.0, 0.0, 1.5, 4.0]


def histogram(make, **arguments):
    """Give a row for `add_histogram` of what `make` makes of torch."""
    return lambda w, t: w.add_histogram("a", make(t), **{"bins": "tensorflow"} | arguments)


def argument(*, tag="a", **arguments):
    """Give a row for `add_histogram` of normal values, where an argument is to be made of torch if it is a function."""

    def call(w, t):
        given = {key: it(t) if callable(it) else it for key, it in arguments.items()}
        w.add_histogram(tag, NORMAL, **{"bins": "tensorflow"} | given)

    return call


def raw(**changed):
    """Give a row for `add_histogram_raw` of six values between -1 and 1."""
    arguments = {
        "min": -1.0, "max": 1.0, "num": 6, "sum": 0.5, "sum_squares": 2.5,
        "bucket_limits": [-1.0, 0.0, 1.0], "bucket_counts": [0, 2, 4],
    }  # fmt: skip

    def call(w, t):
        given = {key: it(t) if callable(it) else it for key, it in (arguments | changed).items()}
        w.add_histogram_raw("a", **given)

    return call


def scalar(make, **arguments):
    """Give a row for `add_scalar` of what `make` makes of torch."""
    return lambda w, t: w.add_scalar("a", make(t), **arguments)


def tensor(dtype):
    return lambda t: t.tensor(WHOLE % 3 if dtype.startswith("float8") else WHOLE).to(
        getattr(t, dtype)
    )


NUMPY = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 longdouble"
TORCH = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 bfloat16"
EIGHT = "float8_e4m3fn float8_e5m2"

HISTOGRAMS = {
    **{f"numpy {name}": histogram(lambda _, n=name: WHOLE.astype(n)) for name in NUMPY.split()},
    **{f"torch {name}": histogram(tensor(name)) for name in TORCH.split()},
    **{f"torch {name}": histogram(tensor(name)) for name in EIGHT.split()},
    "ml_dtypes bfloat16": histogram(lambda _: WHOLE.astype(ml_dtypes.bfloat16)),
    "ml_dtypes int4": histogram(lambda _: (WHOLE % 8).astype(ml_dtypes.int4)),
    "big-endian": histogram(lambda _: NORMAL.astype(">f4")),
    "bfloat16 beyond float16": histogram(lambda t: t.full((3,), 1e6).bfloat16()),
    "bfloat16 below float16": histogram(lambda t: t.full((3,), 1e-9).bfloat16()),
    "complex": histogram(lambda _: NORMAL + 1j),
    "torch complex": histogram(lambda t: t.complex(t.ones(3), t.ones(3))),
    "objects of floats": histogram(lambda _: NORMAL.astype(object)),
    "objects of integers": histogram(lambda _: WHOLE.astype(object)),
    "Decimals": histogram(lambda _: np.array([Decimal("1.5"), Decimal(2)])),
    "Fractions": histogram(lambda _: np.array([Fraction(3, 2), 2])),
    "integers beyond 64 bits": histogram(lambda _: np.array([2**65, 3])),
    "strings of numbers": histogram(lambda _: np.array(["1.5", "2"])),
    "strings": histogram(lambda _: np.array(["a"])),
    "bytes of numbers": histogram(lambda _: np.array([b"1.5", b"2"])),
    "times": histogram(lambda _: np.array([1, 2], "M8[s]")),
    "durations": histogram(lambda _: np.array([1, 2], "m8[s]")),
    "records": histogram(lambda _: np.zeros(3, [("x", "f4"), ("y", "f4")])),
    "masked": histogram(lambda _: np.ma.array(NORMAL, mask=NORMAL > 0)),
    "matrix": histogram(lambda _: np.asmatrix(NORMAL.reshape(2, -1))),
    "number": histogram(lambda _: 1.5),
    "whole number": histogram(lambda _: 3),
    "truth": histogram(lambda _: True),
    "numpy scalar": histogram(lambda _: np.float32(0.25)),
    "complex number": histogram(lambda _: 1 + 2j),
    "Decimal": histogram(lambda _: Decimal("1.5")),
    "Fraction": histogram(lambda _: Fraction(3, 2)),
    "big number": histogram(lambda _: 2**70),
    "string of a number": histogram(lambda _: "1.5"),
    "no dimension": histogram(lambda _: np.array(2.5)),
    "three dimensions": histogram(lambda _: NORMAL.reshape(2, 3, 100)),
    "torch three dimensions": histogram(lambda t: t.tensor(NORMAL).reshape(2, 3, 100)),
    "torch no dimension": histogram(lambda t: t.tensor(2.5)),
    "strided": histogram(lambda _: NORMAL[::-3]),
    "transposed": histogram(lambda t: t.tensor(NORMAL).reshape(20, 30).t()),
    "broadcast": histogram(lambda t: t.tensor([1.5, 2.0]).expand(50, 2)),
    "with gradient": histogram(lambda t: t.tensor(NORMAL, requires_grad=True)),
    "Parameter": histogram(lambda t: t.nn.Parameter(t.tensor(NORMAL))),
    "negative view": histogram(lambda t: t.complex(t.ones(3), t.ones(3)).conj().imag),
    "list": histogram(lambda _: NORMAL.tolist()),
    "empty": histogram(lambda _: np.array([])),
    "torch empty": histogram(lambda t: t.zeros(0, 3)),
    "None": histogram(lambda _: None),
    "sparse": histogram(lambda t: t.eye(3).to_sparse()),
    "sparse rows": histogram(lambda t: t.eye(3).to_sparse_csr()),
    "quantised": histogram(lambda t: t.quantize_per_tensor(t.ones(3), 0.1, 0, t.qint8)),
    "meta": histogram(lambda t: t.ones(3, device="meta")),
    "nested": histogram(lambda t: t.nested.nested_tensor([t.ones(3)], layout=t.jagged)),
    "NaN and infinity": histogram(lambda _: SPECIAL),
    "all NaN": histogram(lambda _: np.array([np.nan, np.nan])),
    "zeros": histogram(lambda _: np.zeros(5)),
    "constant": histogram(lambda _: np.full(7, 3.25)),
    "constant, ten bins": histogram(lambda _: np.full(7, 3.25), bins=10),
    "beyond the limits": histogram(lambda _: np.array([-1e300, 1.0, 1e300])),
    "denormal": histogram(lambda _: np.array([5e-324, -5e-324, 1.0])),
}

BINS = {
    "bins=auto of numpy": argument(bins="auto"),
    **{
        f"bins={rule}": argument(bins=rule)
        for rule in ["fd", "doane", "scott", "stone", "rice", "sturges", "sqrt"]
    },
    **{f"bins={k}": argument(bins=k) for k in (1, 10, 3000)},
    "bins=numpy.int64": argument(bins=np.int64(10)),
    "bins=0": argument(bins=0),
    "bins=10.0": argument(bins=10.0),
    "bins=True": argument(bins=True),
    "bins=None": argument(bins=None),
    "bins=a name": argument(bins="nonsense"),
    "edges": argument(bins=EDGES),
    "edges as a tuple": argument(bins=tuple(EDGES)),
    "edges of numpy": argument(bins=np.array(EDGES)),
    "edges of torch": argument(bins=lambda t: t.tensor(EDGES)),
    "whole edges": argument(bins=range(-4, 5)),
    "equal edges": argument(bins=[-4.0, 0.0, 0.0, 4.0]),
    "equal edges around all": argument(bins=[-20.0, 0.0, 0.0, 20.0]),
    "infinite edges": argument(bins=[-math.inf, 0.0, math.inf]),
    "NaN edge": argument(bins=[0.0, math.nan, 4.0]),
    "falling edges": argument(bins=[4.0, 0.0, -4.0]),
    "one edge": argument(bins=[1.0]),
    "edges beside the values": argument(bins=[100.0, 200.0]),
    "nested edges": argument(bins=[[0.0, 1.0], [2.0, 3.0]]),
    "max_bins=10": argument(max_bins=10),
    "max_bins=1": argument(max_bins=1),
    "max_bins=10**6": argument(max_bins=10**6),
    "max_bins=numpy.int64": argument(max_bins=np.int64(2000)),
    "max_bins=2000.0": argument(max_bins=2000.0),
    "max_bins=0": argument(max_bins=0),
    "max_bins=-1": argument(max_bins=-1),
    "max_bins=2.5": argument(max_bins=2.5),
    "max_bins=True": argument(max_bins=True, bins=[-9.0, 9.0]),
    "max_bins=torch": argument(max_bins=lambda t: t.tensor(2000)),
    "max_bins=text": argument(max_bins="10"),
}

PLACES = {
    **{
        f"step={step!r}": argument(global_step=step)
        for step in (
            None, 0, 5, -1, True, 3.7, "3", 2**40, 2**63 - 1, -(2**63), 2**63, math.nan, "a",
            Decimal(3), Fraction(7, 2), np.int32(3), np.float32(3.5), np.array(3), b"3",
        )
    },
    "step of one element": argument(global_step=np.array([3])),
    "step of two elements": argument(global_step=np.array([3, 4])),
    "step of torch": argument(global_step=lambda t: t.tensor(3)),
    "step of torch, one element": argument(global_step=lambda t: t.tensor([3])),
    "step of torch, real": argument(global_step=lambda t: t.tensor(3.7)),
    **{
        f"walltime={walltime!r}": argument(walltime=walltime)
        for walltime in (
            0, 1.5, 7, -1.0, True, "1.5", Decimal("1.5"), Fraction(3, 2), np.float32(1.5),
            np.int64(7), np.array(1.5), math.nan, math.inf, 10**20,
        )
    },
    "walltime of torch": argument(walltime=lambda t: t.tensor(1.5)),
    "walltime of one element": argument(walltime=np.array([1.5])),
    "walltime of a date": argument(walltime=datetime.datetime(2026, 1, 1)),
    **{
        f"tag={tag!r}": argument(tag=tag)
        for tag in (
            "a/b", "ä", " ", "a\0b", "", "\ud800", b"a", b"\xff", 5, None, np.str_("a"), ("a",),
        )
    },
}  # fmt: skip

RAW = {
    "raw": raw(),
    "raw arrays": raw(bucket_limits=np.array([-1, 0, 1.0]), bucket_counts=np.array([0, 2, 4])),
    "raw tuples": raw(bucket_limits=(-1, 0, 1), bucket_counts=(0, 2, 4)),
    "raw tensors": raw(
        bucket_limits=lambda t: t.tensor([-1.0, 0.0, 1.0]),
        bucket_counts=lambda t: t.tensor([0, 2, 4]),
    ),
    "raw range": raw(bucket_limits=range(-1, 2)),
    "raw generator": raw(bucket_counts=lambda _: (n for n in (0, 2, 4))),
    "raw fractions of counts": raw(bucket_counts=[0, 2.5, 3.5]),
    "raw numpy moments": raw(min=np.float32(-1), max=np.float64(1), num=np.int64(6)),
    "raw tensor moments": raw(min=lambda t: t.tensor(-1.0), sum=lambda t: t.tensor(0.5)),
    "raw tensor moments of one element": raw(min=lambda t: t.tensor([-1.0])),
    "raw array moments": raw(max=np.array(1.0), sum=np.array([0.5])),
    "raw text": raw(min="-1"),
    "raw truth": raw(min=False),
    "raw Decimal": raw(max=Decimal(1)),
    "raw None": raw(sum=None),
    "raw num=0": raw(num=0, bucket_counts=[0, 0, 0]),
    "raw negative num": raw(num=-1),
    "raw num of another sum": raw(num=7),
    "raw NaN min": raw(min=math.nan),
    "raw infinite max": raw(max=math.inf),
    "raw NaN sum": raw(sum=math.nan),
    "raw infinite sum_squares": raw(sum_squares=math.inf),
    "raw min above max": raw(min=2.0),
    "raw no buckets": raw(bucket_limits=[], bucket_counts=[]),
    "raw one bucket": raw(bucket_limits=[1.0], bucket_counts=[6]),
    "raw more limits": raw(bucket_limits=[-1.0, 0.0, 1.0, 2.0]),
    "raw falling limits": raw(bucket_limits=[1.0, 0.0, -1.0]),
    "raw NaN limit": raw(bucket_limits=[-1.0, math.nan, 1.0]),
    "raw equal limits": raw(bucket_limits=[-1.0, 1.0, 1.0]),
    "raw infinite limit": raw(bucket_limits=[-1.0, 0.0, math.inf]),
    "raw negative count": raw(bucket_counts=[0, -2, 8]),
    "raw NaN count": raw(bucket_counts=[0, math.nan, 6]),
    "raw infinite count": raw(bucket_counts=[0, math.inf, 6]),
    "raw table": raw(bucket_limits=np.ones((3, 1))),
    "raw constant": raw(min=1.0, max=1.0, bucket_limits=[1.0, 1.0, 1.0]),
}

SCALARS = {
    **{
        f"scalar {value!r}": scalar(lambda _, v=value: v)
        for value in (
            1, 1.5, True, -0.0, 1e39, 1e-50, 2**70, 10**400, math.nan, -math.inf, "1.5", "nan", "a", b"1.5", None,
            1 + 2j, Decimal("1.5"), Fraction(3, 2), np.float16(1.5), np.float32(1.5), np.int8(-3), np.uint64(2**63),
            np.bool_(True), np.longdouble(1.5), np.str_("1.5"), np.datetime64(5, "s"), np.timedelta64(5, "s"),
            np.complex64(1 + 2j), np.array(1.5), np.array([1.5]), np.array([[[1.5]]]), np.array([]), np.array([1, 2.0]),
            np.array("1.5"), np.array([Decimal("1.5")]), np.array(1 + 0j), np.array([True]), [1.5], (1.5,), {1.5},
            ml_dtypes.bfloat16(1.5), np.array([1.5], ml_dtypes.bfloat16), np.ma.array([1.5], mask=[True]),
        )
    },
    **{
        f"scalar torch {name}": scalar(lambda t, n=name: t.tensor(1).to(getattr(t, n)))
        for name in (*TORCH.split(), *EIGHT.split())
    },
    "scalar torch of one element": scalar(lambda t: t.tensor([[1.5]])),
    "scalar torch with gradient": scalar(lambda t: t.tensor(1.5, requires_grad=True)),
    "scalar torch of two elements": scalar(lambda t: t.ones(2)),
    "scalar torch empty": scalar(lambda t: t.ones(0)),
    "scalar torch complex": scalar(lambda t: t.tensor(1 + 2j)),
    "scalar torch bfloat16 beyond float16": scalar(lambda t: t.tensor(1e6).bfloat16()),
    "scalar torch meta": scalar(lambda t: t.ones((), device="meta")),
    "scalar torch sparse": scalar(lambda t: t.ones(1).to_sparse()),
    "scalar torch quantised": scalar(
        lambda t: t.quantize_per_tensor(t.ones(1), 0.1, 0, t.qint8)
    ),
    "scalar of a Parameter": scalar(lambda t: t.nn.Parameter(t.tensor(1.5))),
    "scalar, new style": scalar(lambda _: 1 / 3, new_style=True),
    "scalar, new style, double": scalar(lambda _: 1 / 3, new_style=True, double_precision=True),
    "scalar, double": scalar(lambda _: 1 / 3, double_precision=True),
    "scalar at a step": scalar(lambda _: 2.5, global_step="7", walltime=2.5),
}  # fmt: skip

CALLS = HISTOGRAMS | BINS | PLACES | RAW | SCALARS


NOT_COUNTED = "TensorBoard draws nothing of it, or something else"
DROPPED = "torch drops the imaginary part"
NO_UNIT = "torch drops the unit"
THROUGH_FLOAT16 = "torch takes bfloat16 through float16"
RANDOM = "torch writes a random number"
OUTSIDE = "torch leaves what is outside the edges out of the buckets"

WHY = {
    "bfloat16 below float16": THROUGH_FLOAT16,
    "scalar torch bfloat16 beyond float16": THROUGH_FLOAT16,
    "complex": DROPPED,
    "torch complex": DROPPED,
    "complex number": DROPPED,
    "times": NO_UNIT,
    "durations": NO_UNIT,
    "masked": "torch counts what is masked",
    "meta": RANDOM,
    "scalar torch meta": RANDOM,
    "NaN and infinity": "torch's moments become NaN; ours are of the finite values, and the others are counted",
    "beyond the limits": "torch's edges end at 1e20",
    "bins=auto of numpy": "the default, which is ours",
    "bins=True": "a flag is not a number of bins",
    "max_bins=True": "a flag is not a number of bins",
    "edges": OUTSIDE,
    "edges as a tuple": OUTSIDE,
    "edges of numpy": OUTSIDE,
    "edges of torch": OUTSIDE,
    "whole edges": OUTSIDE,
    "equal edges": OUTSIDE,
    "edges beside the values": OUTSIDE,
    "NaN edge": "no value is above or below NaN",
    "max_bins=10": "torch merges as many edges everywhere, also where there are no values",
    "walltime=nan": "TensorBoard cannot place it in time",
    "walltime=inf": "TensorBoard cannot place it in time",
    "tag=''": "without a name it cannot be found",
    "tag=None": "without a name it cannot be found",
    "raw None": "torch writes 0",
    "raw num=0": "nothing was counted",
    **{
        f"raw {name}": NOT_COUNTED
        for name in (
            "negative num", "NaN min", "infinite max", "min above max", "no buckets", "falling limits", "NaN limit",
            "negative count", "NaN count", "infinite count",
        )
    },
    "raw equal limits": "TensorBoard loses a bucket without width",
    "raw constant": "TensorBoard loses a bucket without width",
}  # fmt: skip
"""Why ours differs where torch writes something; all else must be the same."""


def written(log_dir, has_time):
    """Read the one value in a directory by tensorboard's messages; None if there is none, besides counts of NaN."""
    (path,) = files(log_dir)
    events = map(Event.FromString, records(path.read_bytes()))
    values = [(event, value) for event in events for value in event.summary.value]
    values = [pair for pair in values if not pair[1].tag.endswith("_count")]
    if not values:
        return None
    ((event, value),) = values
    where = {"tag": value.tag, "step": event.step}
    if has_time:
        where["walltime"] = event.wall_time
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return where | {"value": value.simple_value}
    if value.metadata.plugin_data.plugin_name == "scalars":
        return where | {"value": [*value.tensor.float_val, *value.tensor.double_val]}
    from tensorboard.util.tensor_util import make_ndarray

    if kind == "tensor":
        rows = make_ndarray(value.tensor)
        return where | {"num": rows[:, 2].sum(), "rows": rows}
    histo = value.histo
    limits, counts = np.array(histo.bucket_limit), np.array(histo.bucket)
    return where | {
        "num": histo.num, "min": histo.min, "max": histo.max, "sum": histo.sum,
        "sum_squares": histo.sum_squares, "limits": limits, "counts": counts,
    }  # fmt: skip


def fullest(answer):
    """Give the right edges and counts of buckets that hold values, without the outermost edge."""
    full = answer["counts"] > 0
    return answer["limits"][: len(full)][full][:-1], answer["counts"][full]


def differences(ours, theirs):
    """Say in what two answers of `written` differ: the last bits of sums and empty buckets do not matter."""
    if ours is None or theirs is None:
        return [] if ours is theirs else ["nothing written"]
    found = []
    for name in sorted((ours.keys() & theirs.keys()) - {"limits", "counts", "rows"}):
        a, b = ours[name], theirs[name]
        if a != b and not (isinstance(a, float) and np.isclose(a, b, 1e-9, 0, equal_nan=True)):
            found.append(f"{name}: {a!r}, torch {b!r}")
    if "rows" in ours:  # a constant, or few values
        return found
    if "counts" in theirs:
        (a_edges, a_counts), (b_edges, b_counts) = fullest(ours), fullest(theirs)
        if a_counts.tolist() != b_counts.tolist() or not np.allclose(a_edges, b_edges, 1e-12, 0):
            found.append(f"buckets: {a_counts} up to {a_edges}, torch {b_counts} up to {b_edges}")
    return found


def answer_of(writer_class, name, torch, log_dir):
    """Make a call; give what is in the file afterwards, or the error."""
    writer = writer_class(str(log_dir))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CALLS[name](writer, torch)
        writer.flush()
    except Exception as error:  # noqa: BLE001 - torch raises anything
        return error
    finally:
        writer.close()
    return written(log_dir, "walltime" in name)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_writes_what_torch_writes(name, need, tmp_path):
    torch = need("torch")
    theirs = answer_of(
        need("torch.utils.tensorboard").SummaryWriter, name, torch, tmp_path / "theirs"
    )
    ours = answer_of(SummaryWriter, name, torch, tmp_path / "ours")
    if isinstance(ours, Exception):
        assert isinstance(ours, FasthistError), ours
        assert re.search("Accepted: |Hint: |must be ", str(ours))
        assert isinstance(theirs, Exception) or name in WHY, (str(ours), theirs)
    elif not isinstance(theirs, Exception):
        found = differences(ours, theirs)
        assert bool(found) == (name in WHY), found
    # What torch refuses, and ours takes, is counted elsewhere: lists, empty arrays, float8 and all values NaN.


def test_every_reason_is_that_of_a_call():
    assert WHY.keys() <= CALLS.keys()
