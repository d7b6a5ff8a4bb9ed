"""The one table of cases: what is counted, and every library that is asked the same.

``CALLS[call][library]`` says how a library does a call; `CASES` says on which values, and who takes part. The same
table drives the timing (`run.py`), the comparison of answers (``tests/test_benchmarks.py``) and the README (`report.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import peers
import writers
from data import DISTRIBUTIONS, Data, ModelData
from peers import Peer

OURS = "fasthist"
TEN_MILLION = 10**7

_SLOW = "slow there, and no faster for each element"
_MEMORY = "it takes 240 bytes of memory for an element"
_FLOAT32 = "takes the values as float32 where NumPy does not have their format"
_MAXIMUM = (
    "leaves out the maximum; its arithmetic may put a value next to an edge into the neighbour"
)

# Yardsticks: another library's, or our own, measured beside a case so that both see the same machine.
_SUM = Peer(peers.torch_sum, needs=("torch",))
_SUM_FLOAT32 = Peer(
    peers.torch_sum,
    needs=("torch",),
    on=lambda data: data.like(format="float32", distribution="normal"),
)
_COPY = Peer(peers.numpy_copyto)


def _tensorflow_edges() -> Any:
    from fasthist.buckets import tensorflow_buckets

    return tensorflow_buckets().edges


def _ours(buckets: Any, **options: Any) -> Peer:
    return Peer(peers.ours(buckets), peers.histogram_counts, **options)


CALLS: dict[str, dict[str, Peer]] = {
    "tensorflow": {
        OURS: _ours("tensorflow"),
        "fasthist, 1 thread": Peer(peers.ours("tensorflow", 1), peers.histogram_counts),
        "fasthist on normal": _ours("tensorflow", on=lambda data: data.like(distribution="normal")),
        "fasthist on 1e7": _ours("tensorflow", on=lambda data: data.like(size=TEN_MILLION)),
        "torch make_histogram": Peer(
            peers.torch_make_histogram(as_float64=True),
            peers.proto_counts,
            difference="as add_histogram calls it, on values converted to float64",
            needs=("torch", "tensorboard"),
        ),
        "torch make_histogram, unconverted": Peer(
            peers.torch_make_histogram(as_float64=False),
            peers.proto_counts,
            difference="on the array as it is; its sum of squares is then one of float32",
            needs=("torch", "tensorboard"),
        ),
        "tensorboardX make_histogram": Peer(
            peers.tensorboardx_make_histogram,
            peers.proto_counts,
            needs=("tensorboardX",),
            largest=TEN_MILLION,
            why_not_larger=_SLOW,
        ),
        "boost-histogram, 1 thread": Peer(
            peers.boost_edges(_tensorflow_edges, 1),
            peers.boost_counts,
            difference=_FLOAT32,
            needs=("boost_histogram",),
            largest=TEN_MILLION,
            why_not_larger=_SLOW,
        ),
        "boost-histogram, 2 threads": Peer(
            peers.boost_edges(_tensorflow_edges, 2),
            peers.boost_counts,
            difference=_FLOAT32,
            needs=("boost_histogram",),
        ),
        "torch.sum": _SUM,
        "torch.sum float32": _SUM_FLOAT32,
        "numpy.copyto": _COPY,
    },
    "uniform": {
        OURS: Peer(peers.ours_as_numpy(peers.UNIFORM), peers.first_of_pair),
        "numpy.histogram": Peer(
            peers.numpy_histogram(peers.UNIFORM),
            peers.first_of_pair,
            peers.numpy_uniform_rule,
            difference="its edges are rounded to the dtype of the values; ours are float64",
        ),
        "torch.histc": Peer(
            peers.torch_histc,
            peers.plain_counts,
            peers.histc_rule,
            difference="finds the bucket in the arithmetic of the values' dtype",
            needs=("torch",),
        ),
        "fast-histogram": Peer(
            peers.fast_histogram(range_known=False),
            peers.plain_counts,
            peers.fast_histogram_rule,
            difference=_MAXIMUM,
            needs=("fast_histogram",),
        ),
        "fast-histogram, range known": Peer(
            peers.fast_histogram(range_known=True),
            peers.plain_counts,
            peers.fast_histogram_rule,
            difference=_MAXIMUM,
            needs=("fast_histogram",),
        ),
        **{
            f"boost-histogram, {threads}{', range known' if known else ''}": Peer(
                peers.boost_uniform(int(threads[0]), range_known=known),
                peers.boost_counts,
                peers.boost_uniform_rule,
                difference=_MAXIMUM,
                needs=("boost_histogram",),
            )
            for threads in ("1 thread", "2 threads")
            for known in (False, True)
        },
        "torch.sum": _SUM,
        "numpy.copyto": _COPY,
    },
    "edges": {
        OURS: Peer(peers.ours_as_numpy(peers.EDGES), peers.first_of_pair),
        "numpy.histogram": Peer(peers.numpy_histogram(peers.EDGES), peers.first_of_pair),
        "boost-histogram, 1 thread": Peer(
            peers.boost_edges(lambda: peers.EDGES, 1),
            peers.boost_counts,
            peers.boost_edges_rule,
            difference="what equals the last edge is overflow",
            needs=("boost_histogram",),
        ),
        "boost-histogram, 2 threads": Peer(
            peers.boost_edges(lambda: peers.EDGES, 2),
            peers.boost_counts,
            peers.boost_edges_rule,
            difference="what equals the last edge is overflow",
            needs=("boost_histogram",),
        ),
        "torch.sum": _SUM,
    },
    "auto": {
        OURS: _ours("auto"),
        'fasthist, "tensorflow"': _ours("tensorflow"),
    },
    "auto, drawn": {
        OURS: Peer(peers.ours_drawn("auto"), peers.histogram_counts),
        'fasthist, "tensorflow"': Peer(peers.ours_drawn("tensorflow"), peers.histogram_counts),
    },
    "add_histogram": {
        OURS: Peer(
            writers.add_ours,
            writers.outlined_counts,
            writers.outlined_rule,
            needs=("torch", "tensorboard"),
        ),
        "torch": Peer(
            writers.add_torch,
            writers.written_counts,
            writers.float16_rule,
            difference="casts bfloat16 to float16",
            needs=("torch", "tensorboard"),
        ),
        "tensorboardX": Peer(
            writers.add_tensorboardx,
            writers.written_counts,
            writers.expected_counts,
            needs=("tensorboardX", "torch", "tensorboard"),
        ),
        "tf.summary": Peer(
            writers.add_tensorflow,
            writers.tensorflow_counts,
            writers.tensorflow_rule,
            difference="30 uniform buckets instead of exponential ones",
            needs=("tensorflow", "tensorboard"),
            largest=10**6,
            why_not_larger=_MEMORY,
        ),
    },
    **{
        f"add_histograms, {until}": {
            OURS: Peer(
                writers.model_ours(on_disk=on_disk),
                writers.outlined_counts,
                writers.outlined_rule,
                needs=("torch", "tensorboard"),
            ),
            "torch": Peer(
                writers.model_torch(on_disk=on_disk),
                writers.written_counts,
                writers.float16_rule,
                difference="a loop of add_histogram; casts bfloat16 to float16",
                needs=("torch", "tensorboard"),
            ),
            "tensorboardX": Peer(
                writers.model_tensorboardx(on_disk=on_disk),
                writers.written_counts,
                writers.expected_counts,
                difference="a loop of add_histogram; the user casts bfloat16 to float32; on disk when closed",
                needs=("tensorboardX", "torch", "tensorboard"),
            ),
        }
        for until, on_disk in (("returns", False), ("on disk", True))
    },
}


@dataclass(frozen=True)
class Case:
    """One row: a call on some values, and the libraries that take part besides ours.

    Parameters
    ----------
    call : str
        A key of `CALLS`.
    format, distribution : str
        See `data.make_array`.
    size : int
        Elements.
    libraries : tuple of str
        Keys of ``CALLS[call]``.
    model : str
        A key of `models.MODELS`, instead of `distribution` and `size`.
    quick : bool
        Belongs to the short suite.
    """

    call: str
    format: str
    distribution: str
    size: int
    libraries: tuple[str, ...]
    model: str = ""
    quick: bool = False

    @property
    def name(self) -> str:
        """What results are kept under."""
        if self.model:
            return f"{self.call}/{self.format}/{self.model}"
        exponent = len(str(self.size)) - 1
        size = f"1e{exponent}" if self.size == 10**exponent else str(self.size)
        return f"{self.call}/{self.format}/{self.distribution}/{size}"

    def data(self, *, tiny: int = 0) -> Data:
        """Give the values; with `tiny`, only so many of them, or a model with few."""
        if self.model:
            return ModelData(
                self.format, self.distribution, self.size, model=self.model, tiny=bool(tiny)
            )
        return Data(self.format, self.distribution, min(tiny, self.size) or self.size)


_TENSORFLOW = (
    "torch make_histogram",
    "torch make_histogram, unconverted",
    "tensorboardX make_histogram",
    "boost-histogram, 1 thread",
    "boost-histogram, 2 threads",
    "torch.sum",
    "numpy.copyto",
)
_UNIFORM = tuple(library for library in CALLS["uniform"] if library != OURS)
AUTO_SIZES = (10**3, 10**6, 10**8)
"""Where the time of "auto" is compared with that of "tensorflow"."""

_SIZES = (64, 10**3, 10**4, 10**5, 10**6, 10**7, 10**8)


def _cases() -> Iterator[Case]:
    # In this order neighbours share arrays, of which `data.make_array` keeps the last three.
    for size in _SIZES:
        more = ("fasthist, 1 thread", "fasthist on 1e7") if size == 10**8 else ()
        yield Case(
            "tensorflow", "float32", "normal", size, (*more, *_TENSORFLOW),
            quick=size in (64, 10**6),
        )  # fmt: skip
        yield Case("uniform", "float32", "normal", size, _UNIFORM, quick=size in (64, 10**6))
        if size in AUTO_SIZES:
            for call in ("auto", "auto, drawn"):
                yield Case(
                    call, "float32", "normal", size, ('fasthist, "tensorflow"',), quick=size < 10**8
                )
    yield Case("edges", "float32", "normal", 10**8, ("torch.sum",))
    for distribution in DISTRIBUTIONS:
        if distribution != "normal":
            yield Case("tensorflow", "float32", distribution, 10**8, ("fasthist on normal",))
    # The other libraries are too slow to be asked about every distribution and format of the largest size.
    for distribution in DISTRIBUTIONS:
        if distribution != "normal":
            libraries = ("torch make_histogram", "torch.sum")
            yield Case("tensorflow", "float32", distribution, 10**7, libraries)
            yield Case(
                "tensorflow", "float32", distribution, 10**6, ("fasthist on normal",), quick=True
            )
    yield Case("uniform", "float32", "uniform", 10**7, _UNIFORM)
    edges = tuple(library for library in CALLS["edges"] if library != OURS)
    yield Case("edges", "float32", "normal", 10**7, edges)
    yield Case("edges", "float32", "normal", 10**6, edges, quick=True)
    for format in ("float64", "bfloat16", "float16", "float8_e4m3fn", "int8", "int32", "int64"):
        yardsticks = ("torch.sum float32",)
        if format != "float8_e4m3fn":  # which torch.sum does not take
            yardsticks += ("torch.sum",)
        yield Case("tensorflow", format, "normal", 10**8, (*yardsticks, "numpy.copyto"))
        yield Case("tensorflow", format, "normal", 10**7, ("torch make_histogram", *yardsticks))
        yield Case("tensorflow", format, "normal", 10**6, ("torch make_histogram",), quick=True)
    for format in ("float64", "bfloat16"):
        yield Case("uniform", format, "normal", 10**7, _UNIFORM)
    for size in _SIZES[:-1]:
        libraries = ("torch", "tensorboardX", "tf.summary")
        yield Case("add_histogram", "float32", "normal", size, libraries, quick=size in (64, 10**6))
    for model, format in (("cnn", "float32"), ("transformer", "float32"), ("encoder300", "bfloat16")):  # fmt: skip
        for until in ("returns", "on disk"):
            yield Case(
                f"add_histograms, {until}", format, "initial", 0, ("torch", "tensorboardX"), model,
                quick=model == "cnn",
            )  # fmt: skip


CASES: dict[str, Case] = {case.name: case for case in _cases()}
