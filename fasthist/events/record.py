"""The frame around each record of an event file.

A record is its length (uint64), the checksum of those 8 bytes (uint32), the payload, and the checksum of the
payload (uint32), all little-endian. The checksum is CRC-32C, masked so that a checksum of data that holds
checksums stays a good one.

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

# A length below 2**32, its checksum, and the key of the wall time, with which an event begins.
_LIKELY = re.compile(rb"(?=.{4}\0{4}.{4}\x09)", re.DOTALL)


def frame(payload: bytes) -> bytes:
    """Wrap a payload as one record.

    Parameters
    ----------
    payload : bytes
        Usually one encoded ``Event``; may be empty.

    Returns
    -------
    bytes
        ``len(payload) + OVERHEAD`` of them.

    Notes
    -----
    Two passes over `payload`: a checksum and a copy.
    """
    length = _pack_length(len(payload))
    return b"".join(
        (length, _pack_crc(masked_crc(length)), payload, _pack_crc(masked_crc(payload)))
    )


def masked_crc(data: bytes) -> int:
    """Give the masked CRC-32C of some bytes.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    int
        uint32: the checksum rotated right by 15 bits, plus a constant, modulo ``2**32``.

    Examples
    --------
    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def read_header(data: bytes, at: int) -> int | None:
    """Give the length of the payload that is announced here.

    Parameters
    ----------
    data : bytes
    at : int
        Where `HEADER` bytes begin.

    Returns
    -------
    int or None
        None if its checksum is wrong.
    """
    length, crc = _read_header(data, at)
    return length if _length_crc(length) == crc else None


# The records of a file have a few hundred lengths: 0.4 us less for each.
@functools.lru_cache(maxsize=1 << 10)
def _length_crc(length: int) -> int:
    return masked_crc(_pack_length(length))


def unframe(data: bytes, at: int, length: int) -> bytes | None:
    """Give the payload of a record.

    Parameters
    ----------
    data : bytes
    at : int
        Where the record begins; all of it is there.
    length : int
        From `read_header`.

    Returns
    -------
    bytes or None
        A copy; None if its checksum is wrong.
    """
    end = at + HEADER + length
    payload = data[at + HEADER : end]
    return payload if _read_crc(data, end)[0] == masked_crc(payload) else None


def find_record(data: bytes, at: int = 0) -> int | None:
    """Search the next place where the record of an event begins.

    Parameters
    ----------
    data : bytes
    at : int
        Where to begin.

    Returns
    -------
    int or None
        Where there is a length with the right checksum and an event's first byte behind it.
    """
    for likely in _LIKELY.finditer(data, at):
        if read_header(data, likely.start()) is not None:
            return likely.start()
    return None
