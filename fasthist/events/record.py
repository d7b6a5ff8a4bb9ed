"""The frame around each record of an event file.

A record is its length (uint64), the checksum of those 8 bytes (uint32), the payload, and the checksum of the
payload (uint32), all little-endian. The checksum is CRC-32C, masked so that it stays a good one for data that itself
contains checksums.

Source: tensorflow/core/lib/io/record_writer.h, tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import functools
import re
import struct

import google_crc32c

_MASK_DELTA = 0xA282EAD8
_read_header = struct.Struct("<QI").unpack_from
_pack_length = struct.Struct("<Q").pack
_read_crc = struct.Struct("<I").unpack_from
_pack_crc = struct.Struct("<I").pack

OVERHEAD = 16
"""Bytes that `frame` adds."""

HEADER = 12
"""Bytes before the payload."""

# A length below 2**32, its checksum, and the key of the wall time, which comes first in an event.
_LIKELY = re.compile(rb"(?=.{4}\0{4}.{4}\x09)", re.DOTALL)


def frame(payload: bytes) -> bytes:
    """Wrap a payload, usually one encoded ``Event``, as one record: one checksum and one copy."""
    length = _pack_length(len(payload))
    return b"".join(
        (length, _pack_crc(masked_crc(length)), payload, _pack_crc(masked_crc(payload)))
    )


def masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C: the checksum rotated right by 15 bits, plus a constant, modulo ``2**32``.

    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def read_header(data: bytes, at: int) -> int | None:
    """Return the length of the payload whose `HEADER` bytes begin at `at`; None if its checksum is wrong."""
    length, crc = _read_header(data, at)
    return length if _length_crc(length) == crc else None


# The records of a file have a few hundred lengths: 0.4 us less for each record.
@functools.lru_cache(maxsize=1 << 10)
def _length_crc(length: int) -> int:
    return masked_crc(_pack_length(length))


def unframe(data: bytes, at: int, length: int) -> bytes | None:
    """Return a copy of the payload of a complete record; None if its checksum is wrong."""
    end = at + HEADER + length
    payload = data[at + HEADER : end]
    return payload if _read_crc(data, end)[0] == masked_crc(payload) else None


def find_record(data: bytes, at: int = 0) -> int | None:
    """Find the next event's record: a length with the right checksum, then an event's first byte."""
    for likely in _LIKELY.finditer(data, at):
        if read_header(data, likely.start()) is not None:
            return likely.start()
    return None
