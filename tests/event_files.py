"""Read event files back: strictly, with a checksum of our own, through tensorboard's protobuf classes."""

from __future__ import annotations

import functools
import struct
import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorboard.compat.proto.event_pb2 import Event


@functools.cache
def _crc_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


def crc32c(data):
    """CRC-32C by its definition: polynomial 0x1EDC6F41, reflected."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def records(data):
    """Give the payloads of a file's bytes; any byte out of place is an error."""
    found = []
    while data:
        length, length_crc = struct.unpack_from("<QI", data)
        assert length_crc == masked(crc32c(data[:8]))
        payload = data[12 : 12 + length]
        (payload_crc,) = struct.unpack_from("<I", data, 12 + length)
        assert payload_crc == masked(crc32c(payload))
        found.append(payload)
        data = data[16 + length :]
    return found


def files(log_dir):
    return sorted(Path(log_dir).glob("*tfevents*"))


def events(path):
    """Give the events of one file, the first of which must be the one that every file begins with."""
    found = [Event.FromString(payload) for payload in records(path.read_bytes())]
    assert found[0].file_version == "brain.Event:2"
    assert found[0].source_metadata.writer == "fasthist"
    return found[1:]


def all_events(log_dir):
    return [event for path in files(log_dir) for event in events(path)]


def steps(log_dir):
    return [event.step for event in all_events(log_dir)]
