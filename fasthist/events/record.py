"""The frame around each record of an event file.

A record is its length (uint64), the checksum of those 8 bytes (uint32), the payload, and the checksum of the
payload (uint32), all little-endian. The checksum is CRC-32C, masked so that a checksum of data that holds
checksums stays a good one.

Source: tensorflow/core/lib/io/record_writer.h, tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import struct

import google_crc32c

_MASK_DELTA = 0xA282EAD8
_pack_length = struct.Struct("<Q").pack
_pack_crc = struct.Struct("<I").pack

OVERHEAD = 16
"""Bytes that `frame` adds."""


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
