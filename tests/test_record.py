"""Records, against published checksums, frozen bytes and tensorboard's own reader."""

from __future__ import annotations

import google_crc32c
import pytest
from event_files import crc32c, masked, records
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import errors
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

from fasthist.events.messages import first_event
from fasthist.events.record import OVERHEAD, frame, masked_crc

FIRST_EVENT = (  # wall time 1.5
    "2400000000000000422b804d09000000000000f83f1a0d627261696e2e4576656e743a32"
    "520a0a086661737468697374fc83d2d1"
)


def test_the_checksum_is_crc_32c():
    for compute in (google_crc32c.value, crc32c):
        assert compute(b"123456789") == 0xE3069283  # the check value in every catalogue of CRCs
        assert compute(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
        assert compute(b"\xff" * 32) == 0x62A8AB43  # RFC 3720, B.4


def test_the_mask():
    assert masked_crc(b"\x1a\x11CRC test, one two") == 0x5794D08A
    assert masked_crc(b"") == 0xA282EAD8


@given(st.binary())
def test_the_mask_by_its_definition(data):
    assert masked_crc(data) == masked(crc32c(data))


def test_frozen_bytes():
    assert frame(first_event(1.5)).hex() == FIRST_EVENT


@given(st.lists(st.binary()))
def test_records_follow_one_another(payloads):
    data = b"".join(map(frame, payloads))
    assert len(data) == sum(map(len, payloads)) + OVERHEAD * len(payloads)
    assert records(data) == payloads


def read_with_tensorboard(path):
    reader = PyRecordReader_New(str(path))
    while True:
        try:
            reader.GetNext()
        except errors.OutOfRangeError:
            return
        yield reader.record()


def test_tensorboard_reads_records(tmp_path):
    payloads = [b"", b"a", b"histogram" * 1000, first_event(1.5)]
    (tmp_path / "records").write_bytes(b"".join(map(frame, payloads)))
    assert list(read_with_tensorboard(tmp_path / "records")) == payloads


@pytest.mark.parametrize("place", [0, 9, 12, -1])
def test_tensorboard_would_see_a_wrong_byte(tmp_path, place):
    data = bytearray(frame(b"histogram"))
    data[place] ^= 1
    (tmp_path / "records").write_bytes(data)
    with pytest.raises(errors.DataLossError):
        list(read_with_tensorboard(tmp_path / "records"))
