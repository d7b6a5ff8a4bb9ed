"""Export series for other programs: JSON, CSV, Parquet."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fasthist.commands.terminal import finite, progress
from fasthist.errors import printable
from fasthist.packages import require
from fasthist.tag_series import Series

_QUANTILES = {"p1": 0.01, "p50": 0.5, "p99": 0.99}
_TOLD = (
    "num", "min", "max", "mean", "std", "sum", "sum_squares", "nan_count", "posinf_count", "neginf_count",
    "uncounted",
)  # fmt: skip
_ROWS = ("left", "right", "count")

# Records in one row group of a Parquet file: a few MB.
_PIECE = 1024


def export(
    chosen: Sequence[Series], step: int | None, form: str | None, parquet: Path | None
) -> None:
    """Write a record for each histogram, of one step or all: statistics, and the rows of its buckets.

    Unknown numbers, and those that JSON lacks, are null, or empty in CSV. The rows are lists of left edges, right edges and
    counts; numbers separated by blanks in CSV.
    """
    if parquet is not None:
        require("pyarrow.parquet", "pyarrow")  # fail before reading
    total = sum(len(series) if step is None else int(step in series.steps) for series in chosen)
    with progress("exporting", total, is_bytes=False) as advance:
        records = _records(chosen, step)
        if parquet is not None:
            _write_parquet(_counted(records, advance), parquet)
        elif form == "csv":
            _write_csv(_counted(records, advance))
        else:
            _write_json(_counted(records, advance))


def _counted(records: Iterator[dict[str, Any]], advance: Any) -> Iterator[dict[str, Any]]:
    for record in records:
        yield record
        advance(1)


def _records(chosen: Sequence[Series], step: int | None) -> Iterator[dict[str, Any]]:
    for series in chosen:
        steps, wall_times, zeros = series.steps, series.wall_times, series.zero_count
        places = range(len(series)) if step is None else np.flatnonzero(steps == step).tolist()
        histograms = iter(series) if step is None else iter(series[i] for i in places)
        for i, histogram in zip(places, histograms, strict=True):
            rows, zero_count = histogram.to_rows(), histogram.zero_count
            yield {
                "tag": series.tag,
                "step": int(steps[i]),
                "wall_time": float(wall_times[i]),
                **{name: getattr(histogram, name) for name in _TOLD},
                "zero_count": finite(float(zeros[i])) if zero_count is None else zero_count,
                **{name: histogram.quantile(q) for name, q in _QUANTILES.items()},
                **{name: rows[:, column].tolist() for column, name in enumerate(_ROWS)},
            }


def _write_json(records: Iterator[dict[str, Any]]) -> None:
    before = "["
    for record in records:
        row = {name: finite(value) for name, value in record.items()}
        sys.stdout.write(f"{before}\n{json.dumps(row, allow_nan=False)}")
        before = ","
    sys.stdout.write("\n]\n")


def _write_csv(records: Iterator[dict[str, Any]]) -> None:
    names = ["tag", "step", "wall_time", *_TOLD, "zero_count", *_QUANTILES, *_ROWS]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    is_seen = sys.stdout.isatty()
    for record in records:
        if is_seen:
            record["tag"] = printable(record["tag"])
        texts = {name: " ".join(map(repr, record[name])) for name in _ROWS}
        writer.writerow(record | texts)


def _write_parquet(records: Iterator[dict[str, Any]], path: Path) -> None:
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet", "pyarrow")
    number = pyarrow.float64()
    types = {"tag": pyarrow.string(), "step": pyarrow.int64()}
    types |= dict.fromkeys(("wall_time", *_TOLD, "zero_count", *_QUANTILES), number)
    types |= dict.fromkeys(_ROWS, pyarrow.list_(number))
    schema = pyarrow.schema(types)
    with parquet.ParquetWriter(path, schema) as writer:
        while piece := list(itertools.islice(records, _PIECE)):
            writer.write_table(pyarrow.Table.from_pylist(piece, schema))
