"""Everything that is known of some series, for other programs: JSON, CSV, Parquet."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fasthist.commands.terminal import finite, progress
from fasthist.errors import printable
from fasthist.hist import Histogram
from fasthist.packages import require
from fasthist.tag_series import Series

_QUANTILES = {"p1": 0.01, "p50": 0.5, "p99": 0.99}
_TOLD = (
    "num", "min", "max", "mean", "std", "sum", "sum_squares", "nan_count", "posinf_count", "neginf_count",
    "uncounted",
)  # fmt: skip
_ROWS = ("left", "right", "count")

# Histograms in one piece of a Parquet file: a few MB.
_PIECE = 1024


def export(
    chosen: Sequence[Series], step: int | None, form: str | None, parquet: Path | None
) -> None:
    """Write a record for each histogram, of one step or all: statistics, and the rows of its buckets.

    What a file does not tell is null, or nothing in CSV, and so is what JSON has no number for. The rows are lists of
    the left edges, right edges and counts; numbers with blanks between them in CSV.
    """
    if parquet is not None:
        require("pyarrow.parquet", "pyarrow")  # before the run is gone through
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
            rows = histogram.to_rows()
            yield {
                "tag": series.tag,
                "step": int(steps[i]),
                "wall_time": float(wall_times[i]),
                **{name: getattr(histogram, name) for name in _TOLD},
                "zero_count": _zeros(histogram, float(zeros[i])),
                **{name: histogram.quantile(q) for name, q in _QUANTILES.items()},
                **{name: rows[:, column].tolist() for column, name in enumerate(_ROWS)},
            }


def _zeros(histogram: Histogram, told: float) -> float | None:
    if histogram.zero_count is not None:
        return histogram.zero_count
    return None if math.isnan(told) else told


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
    number, numbers = pyarrow.float64(), pyarrow.list_(pyarrow.float64())
    types = {
        "tag": pyarrow.string(),
        "step": pyarrow.int64(),
        **dict.fromkeys(("wall_time", *_TOLD, "zero_count", *_QUANTILES), number),
        **dict.fromkeys(_ROWS, numbers),
    }
    schema = pyarrow.schema(types)
    with parquet.ParquetWriter(path, schema) as writer:
        piece: list[dict[str, Any]] = []
        for record in records:
            piece.append(record)
            if len(piece) == _PIECE:
                writer.write_table(pyarrow.Table.from_pylist(piece, schema))
                piece = []
        if piece:
            writer.write_table(pyarrow.Table.from_pylist(piece, schema))
