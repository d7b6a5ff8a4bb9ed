"""How each library is asked, and how its answer is compared with ours.

A *setup* takes the data of a case and gives a callable without arguments: what that library's user would call.
Imports, conversions, allocation and bucket edges belong to the setup, not to the callable, unless the library's
own public call makes them each time. Every answer is brought to one form, an array of counts, and must equal
ours exactly. Where a library follows another rule, `Peer.expected` computes what that rule gives from the same values, and
`Peer.difference` says it in words: no comparison has a tolerance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from data import Data
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Run = Callable[[], Any]
Setup = Callable[[Data], Run]

UNIFORM = 64
EDGES = np.concatenate((-np.geomspace(0.05, 1e-4, 32), [0.0], np.geomspace(1e-4, 0.05, 32)))
"""Explicit edges of unequal width; a hundredth of N(0, 0.02) lies outside."""


@dataclass(frozen=True)
class Peer:
    """A library's way of doing what a case asks.

    Parameters
    ----------
    setup : callable
        ``setup(data)`` gives the callable that is timed.
    counts : callable, optional
        ``counts(answer, data)`` gives int64[n], comparable with ours. None: a ceiling, which counts nothing.
    expected : callable, optional
        ``expected(data)`` gives the counts under the library's own rule. None: its rule is ours.
    difference : str
        What that rule, or its way of being asked, is.
    needs : tuple of str
        Modules to import.
    largest : int
        Elements beyond which it is not asked.
    why_not_larger : str
        The reason for `largest`.
    on : callable, optional
        Other data to measure on, as a yardstick.
    """

    setup: Setup
    counts: Callable[[Any, Data], Counts] | None = None
    expected: Callable[[Data], Counts] | None = None
    difference: str = ""
    needs: tuple[str, ...] = ()
    largest: int = 10**9
    why_not_larger: str = ""
    on: Callable[[Data], Data] | None = None


# -- ours ------------------------------------------------------------------------------------------------


def ours(buckets: Any, threads: int | None = None) -> Setup:
    """Count with fasthist into the given buckets."""

    def setup(data: Data) -> Run:
        import fasthist

        array = data.array
        return lambda: fasthist.histogram(array, buckets=buckets, threads=threads)

    return setup


def ours_drawn(buckets: Any) -> Setup:
    """Count, and choose what is written for TensorBoard."""

    def setup(data: Data) -> Run:
        import fasthist

        array = data.array

        def run() -> Any:
            found = fasthist.histogram(array, buckets=buckets)
            found.to_raw()
            return found

        return run

    return setup


def ours_as_numpy(buckets: Any) -> Setup:
    """Give numpy.histogram's answer with fasthist."""

    def setup(data: Data) -> Run:
        import fasthist

        array = data.array
        return lambda: fasthist.histogram(array, buckets=buckets).to_numpy()

    return setup


def histogram_counts(answer: Any, data: Data) -> Counts:  # noqa: ARG001
    """Read a `fasthist.Histogram`."""
    return answer.counts.astype(np.int64)


def first_of_pair(answer: Any, data: Data) -> Counts:  # noqa: ARG001
    """Read numpy's ``counts, edges``."""
    return answer[0].astype(np.int64)


def plain_counts(answer: Any, data: Data) -> Counts:  # noqa: ARG001
    """Read an array of counts, numpy's or torch's."""
    return np.asarray(answer).astype(np.int64)


def counts_between(values: NDArray[Any], edges: NDArray[np.float64]) -> Counts:
    """Count with our explicit edges, which tests hold against the definition."""
    import fasthist

    return fasthist.histogram(values, buckets=edges).counts.astype(np.int64)


# -- numpy, and the ceilings -----------------------------------------------------------------------------


def numpy_histogram(bins: Any) -> Setup:
    """Count with numpy.histogram, on the array as it is."""

    def setup(data: Data) -> Run:
        values = data.plain
        return lambda: np.histogram(values, bins)

    return setup


def numpy_uniform_rule(data: Data) -> Counts:
    """Count between edges in the dtype of the values, as numpy.histogram computes them."""
    values = data.plain
    edges = np.linspace(values.min(), values.max(), UNIFORM + 1, dtype=values.dtype)
    return counts_between(values, edges.astype(np.float64))


def numpy_copyto(data: Data) -> Run:
    """Copy the array, into memory that exists."""
    array = data.array
    target = np.empty_like(array)
    target[...] = array
    return lambda: np.copyto(target, array)


def torch_sum(data: Data) -> Run:
    """Add all values up."""
    import torch

    tensor = data.tensor
    return lambda: torch.sum(tensor)


# -- torch -----------------------------------------------------------------------------------------------


def torch_make_histogram(as_float64: bool) -> Setup:
    """Count with the function behind torch's add_histogram, with or without its conversion to float64."""

    def setup(data: Data) -> Run:
        import torch.utils.tensorboard as torch_tensorboard
        from torch.utils.tensorboard.summary import make_histogram

        with torch_tensorboard.SummaryWriter(data.folder()) as writer:
            bins = writer.default_bins
        values = data.plain
        if as_float64:
            return lambda: make_histogram(values.astype(float), bins)
        return lambda: make_histogram(values, bins)

    return setup


def torch_histc(data: Data) -> Run:
    """Count into uniform buckets between the extremes, which it finds itself."""
    import torch

    tensor = torch.from_numpy(data.plain)
    return lambda: torch.histc(tensor, UNIFORM)


def histc_rule(data: Data) -> Counts:
    """Bucket number (x - min) * 64 / (max - min), computed in the dtype of the values."""
    values = data.plain
    low, high = values.min(), values.max()
    number = ((values - low) * values.dtype.type(UNIFORM) / (high - low)).astype(np.int64)
    return np.bincount(np.minimum(number, UNIFORM - 1), minlength=UNIFORM)


# -- tensorboardX ----------------------------------------------------------------------------------------


def tensorboardx_make_histogram(data: Data) -> Run:
    """Count with the function behind tensorboardX's add_histogram."""
    import tensorboardX
    from tensorboardX.summary import make_histogram

    with tensorboardX.SummaryWriter(data.folder()) as writer:
        bins = writer.default_bins
    values = data.plain
    return lambda: make_histogram(values.astype(float), bins)


def proto_counts(proto: Any, data: Data) -> Counts:  # noqa: ARG001
    """Put a HistogramProto's counts where they belong among all of TensorFlow's buckets.

    A bucket that holds anything is found by its left edge, which is the limit before it.
    """
    from fasthist.buckets import tensorflow_buckets

    edges = tensorflow_buckets().edges
    counts = np.zeros(edges.size - 1, dtype=np.int64)
    limits, written = np.array(proto.bucket_limit), np.array(proto.bucket)
    if proto.min == proto.max:  # we write a constant in a bucket around it
        left = np.full(1, proto.min)
        written = np.array([written.sum()])
    else:
        (filled,) = np.nonzero(written)
        if filled[0] == 0:
            msg = "the first bucket, which has no left edge, holds something"
            raise AssertionError(msg)
        left, written = limits[filled - 1], written[filled]
    np.add.at(counts, np.searchsorted(edges, left, side="right") - 1, written.astype(np.int64))
    return counts


# -- boost-histogram and fast-histogram ------------------------------------------------------------------


def boost_uniform(threads: int, *, range_known: bool) -> Setup:
    """Fill a regular axis between the extremes."""

    def setup(data: Data) -> Run:
        import boost_histogram as bh

        values = data.plain
        known = (values.min(), values.max())

        def run() -> Any:
            low, high = known if range_known else (values.min(), values.max())
            return bh.Histogram(bh.axis.Regular(UNIFORM, low, high)).fill(values, threads=threads)

        return run

    return setup


def boost_uniform_rule(data: Data) -> Counts:
    """Bucket number (x - min) / (max - min) * 64 in float64; the maximum itself is overflow."""
    values = data.plain.astype(np.float64)
    low, high = values.min(), values.max()
    number = ((values - low) / (high - low) * UNIFORM).astype(np.int64)
    return np.bincount(number, minlength=UNIFORM + 1)[:UNIFORM]


def boost_edges(edges: Callable[[], NDArray[np.float64]], threads: int) -> Setup:
    """Fill a variable axis."""

    def setup(data: Data) -> Run:
        import boost_histogram as bh

        values = data.plain
        axis = bh.axis.Variable(edges())
        return lambda: bh.Histogram(axis).fill(values, threads=threads)

    return setup


def boost_edges_rule(data: Data) -> Counts:
    """Our counts, less what equals the last edge: that is overflow."""
    counts = counts_between(data.array, EDGES)
    counts[-1] -= int((data.plain == EDGES[-1]).sum())
    return counts


def boost_counts(answer: Any, data: Data) -> Counts:  # noqa: ARG001
    """Read what lies within the axis."""
    return answer.values().astype(np.int64)


def fast_histogram(*, range_known: bool) -> Setup:
    """Count with histogram1d, whose range the user has to find."""

    def setup(data: Data) -> Run:
        from fast_histogram import histogram1d

        values = data.plain
        known = (values.min(), values.max())

        def run() -> Any:
            return histogram1d(
                values, UNIFORM, known if range_known else (values.min(), values.max())
            )

        return run

    return setup


def fast_histogram_rule(data: Data) -> Counts:
    """Bucket number (x - min) * (64 / (max - min)) in float64; the maximum itself is left out."""
    values = data.plain.astype(np.float64)
    low, high = values.min(), values.max()
    inside = values[values < high]
    number = ((inside - low) * (UNIFORM / (high - low))).astype(np.int64)
    return np.bincount(number, minlength=UNIFORM)[:UNIFORM]


def steps() -> Callable[[], int]:
    """Give 0, 1, 2, ...: every event has a step of its own, as in training."""
    return itertools.count().__next__
