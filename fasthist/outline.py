"""The outline of a tensor: rows that follow its values closely enough for TensorBoard's page to draw them right.

The page cuts all steps of a tag into 30 bins of equal width, and interpolates percentiles inside the rows it is
given. So a row must hold little of the mass, for the percentiles; it must not reach far beyond a border of the bins, for
the bins; and a value that many elements share needs a row of its own, hardly wider than the value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Part = tuple[Rows, float, float]

MOST_ROWS = 250
"""A million normals then take 4 kB in the older of the two forms."""

_MOST_VALUES = 300
"""Distinct values that get a row each: the 256 of an int8 lattice, and points for those a sample has missed."""

ROOM = _MOST_VALUES + 100 + 2
"""Rows to allocate: an empty one may precede each value that holds a hundredth of all."""

_CELLS = 60
"""Two for each bin of the page: where steps share an axis, its bins' borders may lie anywhere in ours."""

_SHARE = 1 / 160
"""Most of the mass in one row: with the cells, smooth data need no more than `MOST_ROWS` rows."""

_HEAVY = 1 / 100
"""Share from which on a single value gets a row at its exact place."""

_NARROW = 2.0**-22
"""Width of that row, as a share of the range: less than a thousandth of a pixel on the page."""

_UNIT = 2.0**-23
"""Its least width, as a share of the largest value, so that it survives a reader that takes edges as float32."""

FAR = 16.0
"""Most distance from zero, in units of the values' range, at which float32 still tells them apart."""

_FAR_NARROW = 2.0**-38
"""Width of the row of a single value further away from zero than that; below, its least width."""

_FAR_UNIT = 2.0**-46

_THIN = 2.0**-12
"""Width of the row of any other single value."""

_GAP = 1 / 2000
"""Share of the range that must be empty for the row before it to end."""


def trace(points: Any, reach: Any, limit: int, rows: Any) -> int:
    """Choose rows for sorted points and return their number; runs in Python as well as compiled.

    `points`, float64[k] or a sequence, are finite and ascending; ``reach[i]``, float64[k + 1], elements lie before point ``i``,
    and the last is the number of all. `limit`, at least 1, is the most rows in either form: with or without rows for the gaps
    between them. Fills `rows`, float64[ROOM, 3], with left edge, right edge and count: they begin at the first point, end
    at the last, and do not overlap. The one row of equal points has no width. Empty rows stand before those that hold
    much, since the page's percentiles ignore left edges.

    Up to `limit` distinct values get a row each, up to 300 where they repeat and `limit` is `MOST_ROWS`. Others are grouped,
    from the left, until a group holds a share of the mass or would reach into the next cell of equal width; if that makes
    too many groups, the share grows.
    """
    size = len(points)
    total = reach[size]
    # Adding zero turns -0.0 into 0.0.
    low, high = points[0] + 0.0, points[size - 1] + 0.0
    if low == high:
        # The writer decides how wide a constant is drawn.
        rows[0, 0] = rows[0, 1] = low
        rows[0, 2] = total
        return 1
    # Halved where the difference of the ends overflows.
    scale = 1.0 if math.isfinite(high - low) else 0.5
    wide = high * scale - low * scale
    far = max(-low, high) * scale
    if far <= FAR * wide:
        narrow = max(wide * _NARROW, far * _UNIT)
    else:
        narrow = min(max(wide * _FAR_NARROW, far * _FAR_UNIT), wide / 4)
    thin = max(narrow, wide * _THIN) / scale
    narrow /= scale
    apart = wide * _GAP / scale

    # More than `limit` only where they repeat: smooth data need fewer rows.
    values = _MOST_VALUES if limit >= MOST_ROWS and total >= 2 * _MOST_VALUES else limit
    different = 1
    for i in range(1, size):
        if points[i] != points[i - 1]:
            different += 1
            if different > values:
                break
    cells = min(_CELLS, max(1, limit // 4))
    # At least four points in a row, so that gaps between rows are not there by chance.
    usual = total * max(_SHARE, 1.6 / limit, 4.0 / size)
    most = 0.0 if different <= values else usual
    allowed = values + 100 if most == 0.0 else limit
    # A higher share where empty rows before all heavy values would be too many.
    heavy = total * (_HEAVY if different <= limit else 2 * _HEAVY)
    while True:
        placed = 0
        gaps = 0
        held = 0.0
        start = low
        left = low
        end = low
        i = 0
        while i < size and placed <= allowed:
            # The last point that the share allows: by doubling steps, then halving ones.
            j = i + 1
            step = 1
            while j + step <= size and reach[j + step] - reach[i] <= most:
                j += step
                step *= 2
            while step > 1:
                step //= 2
                if j + step <= size and reach[j + step] - reach[i] <= most:
                    j += step
            # The first point of the next cell.
            cell = int((points[i] * scale - low * scale) / wide * cells) + 1
            border = math.inf
            if cell < cells:
                border = (low * scale + cell / cells * wide) / scale
            if points[j - 1] >= border:
                begin = i + 1
                while begin < j:
                    middle = (begin + j) // 2
                    if points[middle] < border:
                        begin = middle + 1
                    else:
                        j = middle
            # Keep equal values together: in a row of their own, unless they are the first in this one.
            last = points[j - 1]
            if j < size and points[j] == last and points[i] != last:
                while points[j - 1] == last:
                    j -= 1
                last = points[j - 1]
            while j < size and points[j] == last:
                j += 1

            count = held + reach[j] - reach[i]
            alone = last == points[i]
            spike = alone and count > _HEAVY * total
            if spike:
                left = start
            right = high
            after = high
            if j < size:
                start = points[j] + 0.0
                if start == high:
                    # Its row ends there.
                    room = narrow if total - reach[j] > _HEAVY * total else thin
                    start = max(high - room, last / 2 + high / 2)
                right = start
                gap = start - last > max(apart, 4 * (last - points[i]))
                if gap or spike:
                    room = narrow if spike else thin
                    right = min(max(last + room, np.nextafter(last, math.inf)), start)
                elif last < border:
                    right = min(border, start)
                # A value too light for its own place begins where this row ends, if no gap would be seen.
                after = start if gap else right
            if right > left:
                if left > end:
                    if count > heavy:
                        rows[placed, 0] = end
                        rows[placed, 1] = left
                        rows[placed, 2] = 0.0
                        placed += 1
                    else:
                        gaps += 1
                rows[placed, 0] = left
                rows[placed, 1] = right
                rows[placed, 2] = count
                placed += 1
                held = 0.0
                left = after
                end = right
            elif j == size:
                # There is no number between the row before and the last value.
                rows[placed - 1, 1] = high
                rows[placed - 1, 2] += count
            else:
                held = count
            i = j
        if placed <= allowed and i == size and (most == 0.0 or placed + gaps <= limit):
            return placed
        if most == 0.0:
            most = usual
            allowed = limit
        else:
            most *= 1.25
            if most * 64 > total:
                cells = max(1, cells // 2)


def merge_outlines(parts: Sequence[Part], limit: int | None = None) -> Rows:
    """Return the outline of disjoint data together, as float64[k, 3].

    Each part has its outline, minimum and maximum. `limit` is the most rows, even of one part, if less than `MOST_ROWS`.
    The counts are whole numbers with the same sum. Values inside a row are taken to be spread evenly.
    """
    limit = MOST_ROWS if limit is None else min(limit, MOST_ROWS)
    if len(parts) == 1 and len(parts[0][0]) <= limit:
        return parts[0][0]
    places, masses = [], []
    for rows, low, high in parts:
        left, right, counts = rows[rows[:, 2] > 0].T
        if low == high:
            places.append([low])
            masses.append(counts)
            continue
        # The extremes are elements of their own.
        counts = counts.copy()
        counts[0] -= 1
        counts[-1] -= 1
        # Halved, since the range may overflow; half of the least number is 0.
        wide = high / 2 - low / 2 or math.ulp(0.0)
        share = (right / 2 - left / 2) / wide
        far = max(-low, high) / 2 / wide
        narrow = max(_NARROW, far * _UNIT) if far <= FAR else max(_FAR_NARROW, far * _FAR_UNIT)
        # Before a gap, and at the end, the right edge is the last value here, not the next row's first.
        closed = np.append(left[1:] > right[:-1], True)
        thin = np.where(closed, max(_THIN, narrow), narrow) * 1.01
        single = share <= thin
        # Enough points for `trace` to see no gap between them, and to find the same row again.
        copies = np.where(single, 1, np.maximum(1.25 / _GAP * share, 4).astype(np.int64))
        row = np.repeat(np.arange(len(copies)), copies)
        nth = np.arange(row.size) - np.repeat(np.cumsum(copies) - copies, copies)
        part = nth / np.maximum(copies - closed, 1)[row]
        if single[-1]:
            part[-1] = 1.0
        places += [np.clip(left[row] * (1 - part) + right[row] * part, low, high), [low, high]]
        masses += [counts[row] / copies[row], [1.0, 1.0]]
    points = np.concatenate(places)
    order = np.argsort(points, kind="stable")
    reach = np.cumsum(np.append(0.0, np.concatenate(masses)[order]))
    merged = np.empty((ROOM, 3))
    # Lists, since the loop takes three times as long over the numbers of arrays.
    count = trace(points[order].tolist(), np.rint(reach).tolist(), limit, merged)
    return merged[:count].copy()
