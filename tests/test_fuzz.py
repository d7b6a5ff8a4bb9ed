"""A hundred thousand damaged event files: an error with a place, or what was in them, and nothing else."""

from __future__ import annotations

import struct
import time
import tracemalloc

import google_crc32c
import numpy as np
from event_files import masked, records

import fasthist
from fasthist.errors import EventFileError
from fasthist.events import messages

FILES = 100_000
TRACED = 1_000
SEED = 20_261_125

# Values that lengths, keys and numbers may be turned into.
TELLING = [
    *(bytes([byte]) for byte in b"\x00\x7f\x80\xff\x12\x1a\x22\x2a\x32\x3a"),
    *(bytes([0xFF] * size + [last]) for size, last in ((9, 1), (3, 0x7F), (4, 7))),
    bytes([0x80] * 9 + [1]),
    *(
        struct.pack("<d", number)
        for number in (
            0.0,
            -0.0,
            -1.0,
            38.0,
            5e-324,
            1.7976931348623157e308,
            np.inf,
            -np.inf,
            np.nan,
        )
    ),
]


def framed(payload):
    length = struct.pack("<Q", len(payload))
    crcs = [struct.pack("<I", masked(google_crc32c.value(one))) for one in (length, payload)]
    return length + crcs[0] + payload + crcs[1]


def seeds():
    """Give a few small files, as lists of payloads."""
    histo = messages.histogram_value(
        "a",
        min=-1,
        max=2,
        num=3,
        sum=1.5,
        sum_squares=5.25,
        bucket_limits=np.array([-1, 0.5, 2]),
        bucket_counts=np.array([0.0, 1, 2]),
    )
    rows = messages.histogram_tensor_value("b", np.array([[-1, 0.5, 1], [0.5, 2, 2], [3, 3, 4.0]]))
    nans = messages.scalar_value("a/nan_count", 7)
    other = messages.scalar_tensor_value("c", 0.5)
    head = messages.first_event(1.5)
    return [
        [
            head,
            messages.summary_event([histo, nans], 1.5, 3),
            messages.summary_event([rows], 2.5, 4),
        ],
        [head, messages.summary_event([rows, histo, other], 1.5, -1)],
        [
            messages.summary_event([histo], 1.5, 1),
            messages.summary_event([rows], 1.5, 2),
            *[head] * 2,
        ],
    ]


def mutate(data, kind, a, b, c):
    """Change some bytes of `data`; the numbers are random."""
    size = len(data)
    at, other = a % (size + 1), b % (size + 1)
    low, high = sorted((at, other))
    if kind == 0:  # a bit
        at %= size
        return data[:at] + bytes([data[at] ^ 1 << b % 8]) + data[at + 1 :]
    if kind == 1:  # cut off
        return data[:at]
    if kind == 2:  # cut out
        return data[:at] + data[at + 1 + b % 16 :]
    if kind == 3:  # put in
        return data[:at] + TELLING[b % len(TELLING)] + data[at:]
    if kind == 4:  # put over
        new = TELLING[b % len(TELLING)]
        return data[:at] + new + data[at + len(new) :]
    if kind == 5:  # a byte
        at %= size
        return data[:at] + bytes([b % 256]) + data[at + 1 :]
    if kind == 6:  # twice
        return data[:high] + data[low:]
    middle = low + c % (high - low + 1)  # two parts in each other's place
    return data[:low] + data[middle:high] + data[low:middle] + data[high:]


def damaged(data, numbers):
    """Change `data` in one to three places."""
    kind, a, b, c, d, turns = numbers
    for turn in range(1 + turns % 3):
        data = mutate(data or b"\0", (kind + turn) % 8, a + turn * d, b ^ turn * c, c)
    return data


def files(count, seed, *, sealed=True):
    """Give `count` damaged files; with `sealed`, the checksums of every second one are right."""
    whole = seeds()
    drawn = np.random.default_rng(seed).integers(0, 2**31, (count, 8)).tolist()
    for index, (which, which_record, *numbers) in enumerate(drawn):
        payloads = list(whole[which % len(whole)])
        if sealed and index % 2:
            place = which_record % len(payloads)
            payloads[place] = damaged(payloads[place], numbers)
            yield b"".join(map(framed, payloads))
        else:
            yield damaged(b"".join(map(framed, payloads)), numbers)


def check(histogram):
    edges, counts = histogram.buckets.edges, histogram.counts
    assert np.isfinite(edges).all()
    assert (edges[1:] > edges[:-1]).all()
    assert counts.size == edges.size - 1
    assert (counts >= 0).all()
    assert counts.sum() == histogram.num
    for value in (histogram.min, histogram.max):
        assert value is None or edges[0] <= value <= edges[-1]
    for value in (histogram.sum, histogram.sum_squares):
        assert value is None or value == value  # noqa: PLR0124
    repr(histogram), histogram.to_rows(), histogram.quantile(0.3), histogram.cdf(0.3)


def read_all(path, number):
    """Read a file whole, or up to the first error; give how much was found."""
    reader = fasthist.read(path, skip_corrupt=number // 2 % 2 == 0)
    found, error = 0, None
    try:
        for row in reader:
            found += 1
            if number % 4 == 1:
                with np.errstate(all="ignore"):  # widths near the ends of the range
                    check(row.histogram)
    except EventFileError as raised:
        error = raised
    if error is None:
        return found, reader.corrupt_count
    assert not reader.skip_corrupt
    assert error.offset < path.stat().st_size
    return found, 1


def test_damaged_files(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    found = corrupt = 0
    slowest = 0.0
    for number, data in enumerate(files(FILES, SEED)):
        path.write_bytes(data)
        began = time.perf_counter()
        with np.errstate(
            all="ignore"
        ):  # what the checks do with numbers near the ends of the range
            one, bad = read_all(path, number)
        slowest = max(slowest, time.perf_counter() - began)
        found, corrupt = found + one, corrupt + bad
    assert slowest < 5
    assert found > FILES // 2  # most of a file survives
    assert corrupt > FILES // 4  # and most damage is seen


def test_damage_takes_no_memory(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    made = list(files(TRACED, SEED + 1))
    tracemalloc.start()
    for number, data in enumerate(made):
        path.write_bytes(data)
        read_all(path, number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_the_checksums_let_nothing_through(tmp_path):
    """Damage that is not framed anew: what is read is what was written, record by record."""
    path = tmp_path / "events.out.tfevents.1"
    whole = set()
    for payloads in seeds():
        data = b"".join(map(framed, payloads))
        assert records(data) == payloads
        path.write_bytes(data)
        whole |= {repr(row) for row in fasthist.read(path)}
        # A file that lost its first event does not say who wrote it, so that counts of NaN are unknown.
        path.write_bytes(b"".join(map(framed, payloads[1:])))
        whole |= {repr(row) for row in fasthist.read(path)}
    for data in files(4_000, SEED + 2, sealed=False):
        path.write_bytes(data)
        assert {repr(row) for row in fasthist.read(path, skip_corrupt=True)} <= whole
