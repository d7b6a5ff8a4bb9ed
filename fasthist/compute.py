"""`histogram` and `histograms`: arrays in, histograms out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never, cast

import numpy as np
from numpy.typing import NDArray

from fasthist import dask_arrays, gpu_intake, intake, sharding, tree
from fasthist.buckets import RULES, Buckets, parse_buckets, rule_buckets, wants_outline
from fasthist.dtypes import FORMATS
from fasthist.errors import DeviceError
from fasthist.hist import Histogram
from fasthist.kernels import tally
from fasthist.kernels.cuda.plan import DeviceArray
from fasthist.kernels.host import WIDEN_BELOW
from fasthist.kernels.pool import thread_count
from fasthist.packages import require

BucketsArgument = str | int | Sequence[float] | NDArray[Any] | Buckets


class Histograms(dict[str, Histogram]):
    """A dict of histograms by tag that notebooks show as a table."""

    def _repr_html_(self) -> str:
        table: str = require("fasthist.plots.notebook").histograms_to_html(self)
        return table


def histogram(
    values: Any,
    *,
    buckets: BucketsArgument = "auto",
    device: str | None = None,
    threads: int | None = None,
    name: str = "values",
    **unknown: Never,
) -> Histogram:
    """Count every element of an array, at the speed at which memory delivers it.

    Parameters
    ----------
    values : array[...]
        From any library, of any real dtype, shape and strides; see `fasthist.intake.read`. Never written to.
        An empty array gives a histogram with ``num == 0``. Dask counts its own, see `fasthist.dask_arrays.count`.
        Of a `DTensor`, this rank's part, see `fasthist.sharding.local_part`; `fasthist.distributed` adds them up.
    buckets : "auto", "tensorflow", int, float64[k + 1], Buckets or a rule of numpy
        TensorFlow's limits ("tensorflow": exponential, the same for every tensor, so that histograms add up);
        the same, and beside the counts a `Histogram.outline`, of which TensorBoard draws a better picture ("auto", which is
        not numpy's "auto"); k uniform buckets over the finite [min, max]; or increasing finite edges. Bucket ``i`` is
        ``[edges[i], edges[i + 1])``, and the last also holds its right edge. The rules of `numpy.histogram_bin_edges`,
        "doane", "fd", "rice", "scott", "sqrt", "stone" and "sturges", give its edges for the finite values as float64, but
        at most 1,048,576 buckets; they copy the array to host memory, and take the time that numpy takes. Not for Dask.
    device : {"cpu", "cuda", "cuda:0", ...}, optional
        Where to count. Default: where the values are. "cpu" copies what lies on a GPU; "cuda" brings what lies in host
        memory to the first GPU, or the one of that number, piece after piece.
    threads : int, optional
        CPU threads. Default: the environment variable ``FASTHIST_NUM_THREADS``, else all CPUs of the process. The
        result is the same to the last bit for every number.
    name : str
        What to call the array in an error.

    Returns
    -------
    Histogram
        Counts are exact: with "auto" and "tensorflow" those of TensorFlow and torch, with uniform buckets or edges those of
        `numpy.histogram` of the finite values as float64. NaN and infinities are counted apart.

    Raises
    ------
    ArrayError
        `values` is not a dense array of real numbers.
    DeviceError
        There is no such device, it has no memory left, or it failed; `values` lie in the memory of one that cannot be
        read.
    BucketsError
        `buckets` is none of the above.
    ArgumentError
        `threads` must be a positive whole number.
    TypeError
        Another argument, such as ``bins``; the text says what takes its place.

    Notes
    -----
    Contiguous memory is read in place (once for TensorFlow's limits and for formats of 8 and 16 bits, else twice); other
    layouts are copied through a buffer of 65,536 elements for each thread. "auto" looks at up to 32,768 elements again,
    of up to 1,024 when the outline is first asked for, and keeps a copy of these until then. Works on several Python
    threads at once and after a fork, and releases the GIL.

    Examples
    --------
    >>> import fasthist
    >>> fasthist.histogram([0.1, 0.2, 0.2, float("nan")], buckets=[0, 0.15, 0.3]).counts.tolist()
    [1, 2]
    """
    if unknown:
        raise _unknown(*unknown)
    if isinstance(buckets, str) and buckets in RULES and not dask_arrays.is_dask(values):
        part = intake.read(sharding.local_part(values, name), name, "cpu")
        buckets = rule_buckets(buckets, intake.finite_values(cast("intake.Dense", part)))
    gpu = parse_device(device)
    layout, outlined = parse_buckets(buckets), wants_outline(buckets)
    workers = thread_count(threads)
    if dask_arrays.is_dask(values):
        how = dask_arrays.How(threads, device, gpu, outlined)
        return dask_arrays.count({name: values}, layout, how)[name]
    part = sharding.local_part(values, name)
    array = intake.read(part, name, device)
    return tally([array], layout, workers, gpu, outlined=outlined)[0]


def histograms(
    values: Any,
    *,
    buckets: BucketsArgument = "auto",
    device: str | None = None,
    threads: int | None = None,
) -> Histograms:
    """Count every array of a tree.

    Parameters
    ----------
    values : tree
        Nested mappings, sequences, dataclasses, or a model; see `fasthist.tree.leaves`. A leaf that is a `Histogram`
        already is taken as it is.
    buckets, device, threads
        As in `histogram`.

    Returns
    -------
    Histograms
        A dict of `Histogram` by tag, parts joined with "/", in the order of the tree. Notebooks show it as a table.

    Raises
    ------
    ArgumentError
        Two leaves have the same tag, or the tree itself is an array.
    FasthistError
        What `histogram` raises, naming the leaf.

    Examples
    --------
    >>> import fasthist
    >>> {tag: h.num for tag, h in fasthist.histograms({"fc": {"weight": [[1.0, 2.0]], "bias": [0.5]}}).items()}
    {'fc/weight': 2, 'fc/bias': 1}
    """
    if isinstance(buckets, str) and buckets in RULES:
        return Histograms(
            (tag, leaf)
            if isinstance(leaf, Histogram)
            else (tag, histogram(leaf, buckets=buckets, device=device, threads=threads, name=tag))
            for tag, leaf in tree.named_leaves(values).items()
        )
    gpu = parse_device(device)
    layout, outlined = parse_buckets(buckets), wants_outline(buckets)
    workers = thread_count(threads)
    leaves = tree.named_leaves(values)
    there = None if device == "cpu" else gpu_intake.all_of_torch(list(leaves.values()))
    if there is not None:
        counted = tally(there, layout, workers, outlined=outlined)
        return Histograms(zip(leaves, counted, strict=True))
    found: dict[str, Histogram | None] = {}
    arrays: dict[str, intake.Dense | DeviceArray] = {}
    spread: dict[str, Any] = {}
    streams: dict[int, int] = {}
    for tag, leaf in leaves.items():
        if isinstance(leaf, Histogram):
            found[tag] = leaf
        else:
            found[tag] = None  # keeps the order of the tree
            if dask_arrays.is_dask(leaf):
                spread[tag] = leaf
            else:
                part = sharding.local_part(leaf, tag)
                arrays[tag] = intake.read(part, tag, device, streams)
    counted = tally(list(arrays.values()), layout, workers, gpu, outlined=outlined)
    found.update(zip(arrays, counted, strict=True))
    if spread:
        how = dask_arrays.How(threads, device, gpu, outlined)
        found.update(dask_arrays.count(spread, layout, how))
    return Histograms(cast("dict[str, Histogram]", found))


_ELSEWHERE = {
    "bins": "pass buckets=",
    "range": "pass the edges: buckets=numpy.linspace(low, high, 31)",
    "axis": "it counts all elements; histograms() of a list of slices counts each",
    "density": "divide .counts by .num",
    "weights": "it counts each element once",
}


def _unknown(name: str, *_: str) -> TypeError:
    hint = _ELSEWHERE.get(name, "see help(fasthist.histogram)")
    return TypeError(f"histogram() got an unexpected keyword argument {name!r}. Hint: {hint}.")


def warmup() -> None:
    """Compile every kernel and leave it in Numba's cache, so that no later process waits for that.

    Raises
    ------
    ArgumentError
        ``FASTHIST_NUM_THREADS`` must be a positive whole number.

    Notes
    -----
    Takes as long as compiling does: half a minute or so, once. Worth a line where a container image is built. Numba keeps
    the cache beside the source files, or in the user's cache directory where those cannot be written, or in
    ``NUMBA_CACHE_DIR``; it holds for one version of the package and one kind of CPU.

    Examples
    --------
    >>> import fasthist
    >>> fasthist.warmup()
    """
    from fasthist.kernels.encoding import encode
    from fasthist.kernels.transport import wasserstein, wasserstein_of_pairs
    from fasthist.stacked import Stacked

    every_buckets: tuple[BucketsArgument, ...] = ("auto", 2, [0.0, 1.0])
    for name, row in FORMATS.items():
        patterns = intake.Bits(np.zeros(max(WIDEN_BELOW.values()), dtype=row.carrier), name)
        # A step of two takes the way of arrays that are not contiguous.
        for array in (patterns, patterns._replace(array=np.repeat(patterns.array, 2)[::2])):
            for buckets in every_buckets:
                histogram(array, buckets=buckets)
    rows, moments = np.array([[0.0, 1.0, 1.0]]), np.ones((1, 7))
    out, ends = np.empty(111, dtype=np.uint8), np.empty(1, dtype=np.int64)
    keys = np.zeros((2, 2), dtype=np.uint8)
    encode(rows, np.array([0, 1]), moments, 1, keys, 2, out, ends)
    edges, counts, spans = np.array([0.0, 1.0]), np.ones(2), np.array([[0, 2]])
    wasserstein(edges, counts[1:], edges, counts[1:])
    wasserstein_of_pairs(edges, counts, spans, edges, counts, spans)
    stacked = Stacked({"": histogram([0.0])})
    stacked.agree(stacked.bounds(), 1)
    stacked.sums()


def parse_device(device: str | None) -> int | None:
    """Give the number of the GPU that arrays in host memory are to be counted on, or None for the CPU.

    Raises
    ------
    DeviceError
        `device` names none.
    """
    if device in (None, "cpu"):
        return None
    kind, _, number = str(device).partition(":")
    if kind != "cuda" or not (device == "cuda" or number.isdecimal()):
        msg = (
            f"device={device!r} is not known. "
            'Accepted: "cpu", "cuda", "cuda:0" and so on, or None for where the values are.'
        )
        raise DeviceError(msg)
    return int(number or 0)
