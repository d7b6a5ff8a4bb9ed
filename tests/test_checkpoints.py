"""Checkpoints: what the writers' own libraries wrote comes back, and a broken file says so in one line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fasthist.checkpoints import OPENERS, open_checkpoint, step_of
from fasthist.checkpoints.names import ENDINGS
from fasthist.compute import histogram
from fasthist.errors import ArrayError, CheckpointError, FasthistError, MissingPackageError
from fasthist.intake import Bits

RNG = np.random.default_rng(5)
NUMPY_TYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
ARRAYS = {f"a/{kind}": RNG.integers(0, 2, (3, 5)).astype(kind) for kind in NUMPY_TYPES} | {
    "normal": RNG.normal(size=(17, 4)).astype("f4"),
    "scalar": np.float64(2.5).reshape(()),
    "empty": np.empty((0, 7), np.float32),
    "fortran": np.asfortranarray(RNG.normal(size=(6, 5))),
}


def load_all(path, **kwargs) -> dict[str, object]:
    return {entry.tag: entry.load() for entry in open_checkpoint(path, **kwargs).entries}


def check_same(found: dict[str, object], expected: dict[str, np.ndarray], order: str = "C") -> None:
    """Compare bytes, so that NaN payloads and -0.0 count; a Fortran array comes in the order of the file."""
    assert found.keys() == expected.keys()
    for tag, array in expected.items():
        values = found[tag]
        as_stored = array.ravel(order="K" if order == "K" and array.flags.f_contiguous else "C")
        assert values.dtype == array.dtype
        assert values.tobytes() == as_stored.tobytes(), tag


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        check_same({"a": np.zeros(2)}, {"a": np.array([0.0, -0.0])})


# ---- every format equals what its own library wrote


def test_safetensors_of_numpy(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(
        {tag: np.ascontiguousarray(array) for tag, array in ARRAYS.items()},
        path,
        metadata={"format": "np"},
    )
    check_same(load_all(path), ARRAYS)


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_safetensors_of_formats_that_numpy_has_not(tmp_path, need, kind):
    torch = need("torch")
    from safetensors.torch import save_file

    width = 16 if kind == "bfloat16" else 8
    patterns = np.arange(2**width, dtype=f"u{width // 8}")
    tensor = torch.from_numpy(patterns).view(getattr(torch, kind))
    save_file({"w": tensor, "after": torch.ones(3)}, tmp_path / "model.safetensors")
    found = load_all(tmp_path / "model.safetensors")
    assert isinstance(found["w"], Bits)
    assert found["w"].format == kind
    np.testing.assert_array_equal(found["w"].array, patterns)
    assert histogram(found["w"]) == histogram(patterns.view(getattr(ml_dtypes, kind)))


def write_safetensors(path: Path, header: object, data: bytes) -> Path:
    """Lay the file out by the description in safetensors' README, for what the library refuses to write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("name", ["F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_safetensors_of_fnuz_formats(tmp_path, name):
    patterns = np.arange(256, dtype="u1")
    row = {"dtype": name, "shape": [16, 16], "data_offsets": [0, 256]}
    found = load_all(write_safetensors(tmp_path / "m.safetensors", {"w": row}, patterns.tobytes()))
    kind = "float8_" + name.removeprefix("F8_").lower()
    assert histogram(found["w"]) == histogram(patterns.view(getattr(ml_dtypes, kind)))


def test_unaligned_safetensors_are_counted(tmp_path):
    values = np.linspace(-1, 1, 1001, dtype="<f4")
    header = {
        "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "w": {"dtype": "F32", "shape": [1001], "data_offsets": [3, 3 + values.nbytes]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = write_safetensors(tmp_path / "m.safetensors", text, b"\1\2\3" + values.tobytes())
    found = load_all(path)["w"]
    assert not found.flags.aligned
    assert histogram(found) == histogram(values)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_shards(tmp_path, suffix):
    tags = sorted(ARRAYS)
    tag2shard = {}
    for number, part in enumerate((tags[::2], tags[1::2]), 1):
        name = f"model-{number:05}-of-00002.{suffix}"
        arrays = {tag: np.ascontiguousarray(ARRAYS[tag]) for tag in part}
        if suffix == "npz":
            np.savez(tmp_path / name, **arrays)
        else:
            safetensors.numpy.save_file(arrays | {"not_in_the_index": np.ones(2)}, tmp_path / name)
        tag2shard |= dict.fromkeys(part, name)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": tag2shard}))
    check_same(load_all(index), ARRAYS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    arrays = ARRAYS | {"big_endian": np.arange(5, dtype=">f8"), "long": RNG.normal(size=300_000)}
    save(tmp_path / "weights.npz", **arrays)
    found = load_all(tmp_path / "weights.npz")
    check_same(found, arrays, order="K")
    assert histogram(found["big_endian"]) == histogram(np.arange(5.0))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("tag", sorted(ARRAYS))
def test_npy(tmp_path, tag, version):
    with (tmp_path / "array.npy").open("wb") as file:
        np.lib.format.write_array(file, ARRAYS[tag], version)
    check_same(load_all(tmp_path / "array.npy"), {"array": ARRAYS[tag]}, order="K")


def test_big_endian_npy(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(7, dtype=">i4"))
    found = load_all(tmp_path / "array.npy")["array"]
    assert found.tolist() == list(range(7))
    assert histogram(found) == histogram(np.arange(7, dtype="i4"))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_torch(tmp_path, need, is_zip, suffix):
    torch = need("torch")
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    narrow = (
        torch.float8_e5m2 if is_zip else torch.int8
    )  # torch itself cannot read old files of float8
    around: list[object] = [weight.to(narrow)]
    around.append(around)  # a container may hold itself
    saved = {
        "model": {"fc.weight": torch.nn.Parameter(weight), "fc.turned": weight.t()},
        "optimizer": {"state": {0: {"exp_avg": weight.bfloat16()}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "list": around,
    }
    path = tmp_path / f"model{suffix}"
    torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
    checkpoint = open_checkpoint(path)
    found = {entry.tag: entry.load() for entry in checkpoint.entries}
    assert list(found) == [
        "model/fc.weight",
        "model/fc.turned",
        "optimizer/state/0/exp_avg",
        "list/0",
    ]
    assert torch.equal(found["model/fc.weight"], weight)
    assert torch.equal(found["model/fc.turned"], weight.t())
    assert found["optimizer/state/0/exp_avg"].dtype == torch.bfloat16
    assert [entry.nbytes for entry in checkpoint.entries] == [48, 48, 24, 12]
    assert all(histogram(tensor).num == 12 for tensor in found.values())


def test_torch_files_read_one_after_the_other_do_not_mix(tmp_path, need):
    torch = need("torch")
    for step in (1, 2):
        torch.save({"w": torch.full((3,), float(step))}, tmp_path / f"step{step}.pt")
    first, second = (open_checkpoint(tmp_path / f"step{step}.pt").entries[0] for step in (1, 2))
    assert [it.load().tolist() for it in (first, second, first)] == [
        [1.0] * 3,
        [2.0] * 3,
        [1.0] * 3,
    ]


def test_a_torch_file_that_changes_after_it_was_opened(tmp_path, need):
    torch = need("torch")
    torch.save({"w": torch.ones(3)}, tmp_path / "m.pt")
    (entry,) = open_checkpoint(tmp_path / "m.pt").entries
    torch.save({"v": torch.ones(4)}, tmp_path / "m.pt")
    with pytest.raises(
        CheckpointError, match="tensor 'w' was there when it was opened, and is not any more"
    ):
        entry.load()


def test_a_lone_array_is_called_after_its_file(tmp_path, need):
    torch = need("torch")
    np.save(tmp_path / "weights_0012.npy", np.ones(3))
    np.save(tmp_path / "12.npy", np.ones(3))
    torch.save(torch.ones(2), tmp_path / "epoch=2-bias.pt")

    def look(name, step=None):
        checkpoint = open_checkpoint(tmp_path / name, step)
        return checkpoint.step, [entry.tag for entry in checkpoint.entries]

    assert look("weights_0012.npy") == (12, ["weights"])
    assert look("weights_0012.npy", 7) == (7, ["weights_0012"])
    assert look("12.npy") == (12, ["values"])
    assert look("epoch=2-bias.pt") == (2, ["bias"])


# ---- types that cannot be counted leave the others alone


def test_types_that_cannot_be_counted_are_refused_one_by_one(tmp_path):
    arrays = {
        "complex": np.ones(3, np.complex64),
        "text": np.array(["a", "bc"]),
        "objects": np.array([{}, None], dtype=object),
        "record": np.zeros(2, [("x", "f4"), ("y", "i2")]),
        "long": np.ones(2, np.longdouble),
        "good": np.arange(3.0),
    }
    np.savez(tmp_path / "mixed.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "mixed.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
        archive.mkdir("folder")
    entries = {entry.tag: entry for entry in open_checkpoint(tmp_path / "mixed.npz").entries}
    assert entries.keys() == arrays.keys() | {"readme.txt"}
    assert entries.pop("good").load().tolist() == [0, 1, 2]
    for tag, entry in entries.items():
        with pytest.raises(
            ArrayError, match=rf"^{tag}: .* cannot be counted\. Accepted: bool, .* Convert it"
        ):
            entry.load()
    np.save(tmp_path / "text.npy", arrays["text"])
    with pytest.raises(ArrayError, match="the numpy type '<U2' cannot be counted"):
        load_all(tmp_path / "text.npy")


@pytest.mark.parametrize(
    ("kind", "nbytes"), [("C64", 8), ("F4", 1), ("F8_E8M0", 2), ("F6_E2M3", 3), ("NEW", 9)]
)
def test_safetensors_types_that_cannot_be_counted(tmp_path, kind, nbytes):
    header = {
        "odd": {"dtype": kind, "shape": [2], "data_offsets": [0, nbytes]},
        "w": {"dtype": "F64", "shape": [1], "data_offsets": [nbytes, nbytes + 8]},
    }
    path = write_safetensors(
        tmp_path / "m.safetensors", header, bytes(nbytes) + np.float64(4).tobytes()
    )
    odd, w = open_checkpoint(path).entries
    assert w.load().tolist() == [4]
    with pytest.raises(ArrayError, match=f"odd: the safetensors type {kind} cannot be counted"):
        odd.load()


# ---- broken files: one line that names the file and the fault


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN_SAFETENSORS = {
    "empty file": (b"", "header should take 0 bytes, and the file has 0 bytes"),
    "a long header": (
        b"version https://git-lfs.github.com/spec/v1",
        "header should take .* file has 42 bytes",
    ),
    "cut off": (
        ({"w": ROW}, bytes(7)),
        "'w' should lie at bytes 0 to 8 after the header, where 7 bytes follow",
    ),
    "bytes left over": (({"w": ROW}, bytes(9)), "1 bytes follow its last tensor"),
    "hole": (
        ({"w": ROW | {"data_offsets": [4, 12]}}, bytes(12)),
        "'w' should lie at bytes 4 to 12",
    ),
    "overlap": (
        ({"a": ROW, "b": ROW}, bytes(8)),
        "'b' should lie at bytes 0 to 8 .* and 8 are taken",
    ),
    "backwards": (
        ({"w": ROW | {"data_offsets": [0, -8]}}, bytes(8)),
        "does not tell type, shape and place",
    ),
    "shape": (({"w": ROW | {"shape": [3]}}, bytes(8)), "'w' has 3 elements of F32 in 8 bytes"),
    "giant shape": (
        ({"w": ROW | {"shape": [2**62, 2**62]}}, bytes(8)),
        "elements of F32 in 8 bytes",
    ),
    "endless shape": (
        ({"w": ROW | {"shape": [2] * 65}}, bytes(8)),
        "does not tell type, shape and place",
    ),
    "boolean shape": (
        ({"w": ROW | {"shape": [True, 2]}}, bytes(8)),
        "does not tell type, shape and place",
    ),
    "no dtype": (({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "does not tell type"),
    "no row": (({"w": 3}, bytes(8)), "does not tell type, shape and place of tensor 'w'"),
    "no object": (([1], b""), "header is not a JSON object"),
    "broken JSON": ((b'{"w": ', b""), "header is not valid JSON"),
    "not UTF-8": ((b'{"\xff": 1}', b""), "header is not valid JSON"),
    "deep JSON": ((b"[" * 100_000, b""), "header is not valid JSON"),
    "twice": ((b'{"w": 1, "w": 2}', b""), "not valid JSON .a name occurs in it twice"),
}


@pytest.mark.parametrize("case", BROKEN_SAFETENSORS)
def test_broken_safetensors(tmp_path, case):
    content, fault = BROKEN_SAFETENSORS[case]
    path = tmp_path / "m.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_safetensors(path, *content)
    with pytest.raises(CheckpointError, match=rf"^{path}: .*{fault}.* copy or save it again\.$"):
        open_checkpoint(path)


def test_a_header_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(
        CheckpointError, match="its header of 200000000 bytes exceeds 100000000 bytes"
    ):
        open_checkpoint(path)


BROKEN_INDEX = {
    "no map": ({"metadata": {}}, "no weight_map"),
    "numbers": ({"weight_map": {"w": 3}}, "no weight_map"),
    "missing shard": (
        {"weight_map": {"w": "gone.npz"}},
        r"the shard gone\.npz that it names is missing\. Put",
    ),
    "missing tensor": ({"weight_map": {"v": "here.npz"}}, r"'v' is not in the shard here\.npz"),
    "outside": ({"weight_map": {"w": "../here.npz"}}, "which is not a checkpoint file beside it"),
    "absolute": ({"weight_map": {"w": "/here.npz"}}, "which is not a checkpoint file beside it"),
    "itself": ({"weight_map": {"w": "m.index.json"}}, "which is not a checkpoint file beside it"),
    "unknown": ({"weight_map": {"w": "here.h5"}}, "which is not a checkpoint file beside it"),
    "null": ({"weight_map": {"w": "he\0re.npz"}}, "which is not a checkpoint file beside it"),
}


@pytest.mark.parametrize("case", BROKEN_INDEX)
def test_broken_index(tmp_path, case):
    content, fault = BROKEN_INDEX[case]
    np.savez(tmp_path / "here.npz", w=np.ones(2))
    path = tmp_path / "m.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"^{path}: .*{fault}"):
        open_checkpoint(path)


def npy_bytes(text: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + data


BROKEN_NPY = {
    "empty": (b"", "does not start like an npy file"),
    "version": (npy_bytes("", version=b"\7\0"), "does not start like an npy file"),
    "magic": (b"\x92NUMPY\1\0\0\0", "does not start like an npy file"),
    "header cut off": (
        npy_bytes("{'descr': '<f4', 'shape': (3,)}")[:-1],
        "npy header cannot be read",
    ),
    "header cut off, readable": (
        npy_bytes("{'descr': '<f4', 'shape': (3,)}  ")[:-1],
        "npy header is cut off",
    ),
    "data cut off": (
        npy_bytes("{'descr': '<f4', 'shape': (3,)}", bytes(11)),
        "12 bytes of values, and 11 follow",
    ),
    "negative shape": (npy_bytes("{'descr': '<f4', 'shape': (-3,)}"), "its shape is not one"),
    "no shape": (npy_bytes("{'descr': '<f4'}"), "npy header cannot be read"),
    "no dict": (npy_bytes("[1]"), "npy header cannot be read"),
    "code": (npy_bytes("__import__('os')"), "npy header cannot be read"),
    "warning": (npy_bytes(r"{'descr': '\d', 'shape': ()}"), "npy header cannot be read"),
    "deep": (npy_bytes("(" * 60_000), "npy header cannot be read"),
    "long": (b"\x93NUMPY\2\0" + b"\xff" * 8, "npy header of 4294967295 bytes exceeds"),
}


@pytest.mark.parametrize("case", BROKEN_NPY)
def test_broken_npy(tmp_path, case):
    content, fault = BROKEN_NPY[case]
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{path}: .*{fault}"):
        open_checkpoint(path)


def npz_bytes(compression: int = zipfile.ZIP_STORED, **name2bytes: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in name2bytes.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def a_npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


BROKEN_NPZ = {
    "no zip": (b"hello", "not a readable zip archive"),
    "cut off": (npz_bytes(a=a_npy(np.ones(9)))[:-30], "not a readable zip archive"),
    "no npy": (npz_bytes(a=b"hello"), "member 'a.npy': it does not start like an npy file"),
    "short": (
        npz_bytes(a=a_npy(np.ones(9))[:-1]),
        "header announces 200 bytes in all, and it has 199",
    ),
    "bzip2": (
        npz_bytes(zipfile.ZIP_BZIP2, a=a_npy(np.ones(9))),
        "compressed in a way that numpy does not use",
    ),
}


@pytest.mark.parametrize("case", BROKEN_NPZ)
def test_broken_npz(tmp_path, case):
    content, fault = BROKEN_NPZ[case]
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{path}: .*{fault}"):
        open_checkpoint(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_in_a_member_fails_its_checksum(tmp_path, compression):
    array = RNG.normal(size=5000)
    content = bytearray(npz_bytes(compression, a=a_npy(array), b=a_npy(np.arange(3.0))))
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    entries = {entry.tag: entry for entry in open_checkpoint(tmp_path / "a.npz").entries}
    with pytest.raises(CheckpointError, match=r"member 'a\.npy': .*(CRC-32|decompress)"):
        entries["a"].load()
    assert entries["b"].load().tolist() == [0, 1, 2]


def test_a_directory_that_lies_about_the_size_does_not_make_us_allocate_it(tmp_path):
    content = npz_bytes(zipfile.ZIP_DEFLATED, a=a_npy(np.zeros(100)))
    honest = (100 * 8 + 128).to_bytes(4, "little")
    assert content.count(honest) == 2
    (tmp_path / "a.npz").write_bytes(content.replace(honest, (2**31 - 1).to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match="2147483647 bytes cannot come out of"):
        open_checkpoint(tmp_path / "a.npz")


def test_a_member_that_cannot_be_inflated_to_its_size(tmp_path):
    path, array = tmp_path / "a.npz", np.arange(1000.0)
    content = npz_bytes(zipfile.ZIP_DEFLATED, a=a_npy(np.arange(100_000.0)))
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 50 + content[middle + 50 :])
    with pytest.raises(CheckpointError, match=r"member 'a\.npy': it cannot be decompressed"):
        load_all(path)

    half = a_npy(array)[
        :-4000
    ]  # in an archive that says it were whole, like the header of the array
    content = npz_bytes(zipfile.ZIP_DEFLATED, a=half)
    sizes = [len(it).to_bytes(4, "little") for it in (half, a_npy(array))]
    assert content.count(sizes[0]) == 2
    path.write_bytes(content.replace(*sizes))
    with pytest.raises(CheckpointError, match="it decompresses to 4128 bytes instead of 8128"):
        load_all(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_broken_torch_files(tmp_path, need, is_zip):
    torch = need("torch")
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(1000)}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(
            CheckpointError, match=rf"^{path}: torch cannot read it \(\w+\)\. Accepted"
        ):
            load_all(path)


def test_python_objects_in_a_torch_file_are_not_run(tmp_path, need):
    torch = need("torch")
    torch.save({"w": torch.ones(2), "path": Path("x")}, tmp_path / "m.pt")
    with pytest.raises(
        CheckpointError, match=r"tensors and plain values only.*or save its state_dict\(\)"
    ):
        open_checkpoint(tmp_path / "m.pt")


def test_torch_is_asked_for_by_name(tmp_path, monkeypatch):
    (tmp_path / "m.pt").write_bytes(b"PK\3\4")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        MissingPackageError, match=r"Reading .*m\.pt needs PyTorch.*pip install 'fasthist\[torch\]'"
    ):
        open_checkpoint(tmp_path / "m.pt")


def test_two_tensors_of_one_name(tmp_path, need):
    torch = need("torch")
    torch.save({"a/b": torch.ones(1), "a": {"b": torch.ones(1)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="two of its tensors are called 'a/b'"):
        open_checkpoint(tmp_path / "m.pt")


def test_a_name_that_no_event_file_can_hold(tmp_path):
    path = write_safetensors(tmp_path / "m.safetensors", {"w\ud800": ROW}, bytes(8))
    with pytest.raises(
        CheckpointError, match=r"the name of tensor 'w\\ud800' holds half a character"
    ):
        open_checkpoint(path)


def test_missing_files_directories_and_unknown_endings(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        open_checkpoint(tmp_path / "gone.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(
        CheckpointError, match=r"folder\.npz: is a directory\. Accepted: files ending in"
    ):
        open_checkpoint(tmp_path / "folder.npz")
    (tmp_path / "model.h5").touch()
    with pytest.raises(CheckpointError, match=r"model\.h5: has no ending .* \.safetensors, \.npz"):
        open_checkpoint(tmp_path / "model.h5")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_a_file_that_shrinks_after_it_was_opened(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    array = np.ones(1000)
    writers = {".npy": lambda: np.save(path, array), ".npz": lambda: np.savez(path, m=array)}
    writers.get(suffix, lambda: safetensors.numpy.save_file({"m": array}, path))()
    (entry,) = open_checkpoint(path).entries
    with path.open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(CheckpointError, match="became shorter after it was opened"):
        entry.load()


SHRINK = """
import sys
import numpy as np
import fasthist
from fasthist.checkpoints import open_checkpoint

(entry,) = open_checkpoint(sys.argv[1]).entries
values = entry.load()
open(sys.argv[1], "r+b").truncate(0)
print(fasthist.histogram(values).sum)
"""


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_a_file_that_shrinks_after_a_tensor_was_loaded(tmp_path, need, suffix):
    path, array = tmp_path / f"m{suffix}", np.ones(1_000_000, np.float32)
    writers = {
        ".npy": lambda: np.save(path, array),
        ".npz": lambda: np.savez(path, m=array),
        ".safetensors": lambda: safetensors.numpy.save_file({"m": array}, path),
        ".pt": lambda: need("torch").save({"m": need("torch").ones(1000, 1000).t()}, path),
    }
    writers[suffix]()
    done = subprocess.run([sys.executable, "-c", SHRINK, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1000000.0\n"), done.stderr


def test_views_of_torch_are_read_from_their_places(tmp_path, need):
    torch = need("torch")
    base = torch.arange(120, dtype=torch.float64).reshape(10, 12)
    views = {
        "whole": base,
        "turned": base.t(),
        "part": base[2:7:2, 3:9:5],
        "row": base[9],
        "expanded": base[3:4, 5:6].expand(4, 4),
        "other": torch.arange(9).short(),
        "tied": base[9],
        "bits": torch.tensor([True, False]),
        "empty": torch.empty(0),
        "point": torch.tensor(2.5, dtype=torch.bfloat16),
        "narrow": torch.arange(4).to(torch.float8_e5m2),
    }
    torch.save(views, tmp_path / "m.pt")
    found = load_all(tmp_path / "m.pt")
    assert list(found) == list(views)
    size = (tmp_path / "m.pt").stat().st_size
    with (tmp_path / "m.pt").open("r+b") as file:
        file.write(bytes(size))  # what torch has mapped is zeros now
    for tag, view in views.items():
        assert found[tag].dtype == view.dtype
        assert found[tag].shape == view.shape
        assert torch.equal(found[tag].double(), view.double()), tag


def test_a_torch_file_cut_anywhere(tmp_path, need):
    torch = need("torch")
    torch.save({"w": torch.ones(100), "v": torch.ones(3)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(0, len(whole), 41):
        (tmp_path / "m.pt").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="torch cannot read it"):
            load_all(tmp_path / "m.pt")


# ---- whatever the bytes: CheckpointError, ArrayError for a type, or a right answer


def mutations(content: bytes):
    """Cut the file, overwrite bytes, or put bytes in; mostly near its beginning and end, where headers are."""
    place = st.one_of(
        st.integers(0, len(content) - 1),
        st.integers(0, min(200, len(content) - 1)),
        st.integers(max(0, len(content) - 200), len(content) - 1),
    )
    change = st.tuples(place, st.binary(min_size=0, max_size=6), st.booleans())
    cut = st.one_of(st.just(len(content)), st.integers(0, len(content)))
    return st.tuples(st.lists(change, min_size=0, max_size=4), cut)


def mutate(content: bytes, recipe) -> bytes:
    changes, cut = recipe
    for place, new, is_overwriting in changes:
        content = content[:place] + new + content[place + (len(new) if is_overwriting else 0) :]
    return content[:cut]


SAFETENSORS = safetensors.numpy.save(
    {"a": np.arange(6, dtype="f4"), "b.weight": np.ones((2, 3), "i2"), "c": np.empty((0, 2))}
)


@settings(max_examples=400)
@given(recipe=mutations(SAFETENSORS))
def test_mutated_safetensors(tmp_path_factory, recipe):
    content = mutate(SAFETENSORS, recipe)
    path = tmp_path_factory.mktemp("mutated") / "m.safetensors"
    path.write_bytes(content)
    try:
        expected = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        expected = None
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        event("refused")
        assert expected is None, "the library reads it"
        return
    event("read")
    for entry in checkpoint.entries:
        try:
            values = entry.load()
        except ArrayError:
            continue
        raw = values.array if isinstance(values, Bits) else values
        assert raw.nbytes <= len(content)
        if expected is not None:
            assert raw.tobytes() == bytes(expected[entry.tag]["data"])


NPZ = {
    compression: npz_bytes(compression, a=a_npy(np.arange(1000.0)), b=a_npy(np.ones((2, 3), "i2")))
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
}
# a is larger than the 4 KiB that zipfile reads ahead: it would find damage in smaller ones itself.


@pytest.mark.parametrize("compression", NPZ)
@settings(max_examples=400)
@given(data=st.data())
def test_mutated_npz(tmp_path_factory, compression, data):
    content = mutate(NPZ[compression], data.draw(mutations(NPZ[compression])))
    path = tmp_path_factory.mktemp("mutated") / "m.npz"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        event("refused")
        return
    for entry in checkpoint.entries:
        try:
            values = entry.load()
        except FasthistError as error:
            assert isinstance(error, CheckpointError | ArrayError)  # noqa: PT017 - which one is random
            event("refused later")
            continue
        event("read")
        # The checksum stands over the values and their type: what comes through is what was written.
        expected = np.arange(1000.0) if values.size == 1000 else np.ones(6, "i2")
        np.testing.assert_array_equal(values, expected)
        assert values.dtype == expected.dtype


# ---- steps


STEPS = {
    "model_step_1000.safetensors": 1000,
    "step=1000.npz": 1000,
    "ckpt-500.pt": 500,
    "epoch003.npy": 3,
    "Model-Epoch_7.pth": 7,
    "iter_0001000.bin": 1000,
    "global_step12.pt": 12,
    "epoch=3-step=1000.ckpt": 1000,
    "ckpt_epoch_10.pt": 10,
    "checkpoint.250.npz": 250,
    "model.step.40.safetensors": 40,
    "steps20.npz": 20,
    "weights_0012.npy": 12,
    "0042.npz": 42,
    "MODEL_STEP_5.SAFETENSORS": 5,
    "checkpoint-500/model.safetensors": 500,
    "checkpoint-500/model-00001-of-00005.safetensors": 500,
    "checkpoint-500/model.safetensors.index.json": 500,
    "global_step30/zero/mp_rank_00_model_states.pt": 30,
    "step_8/epoch_2/model.pt": 2,
    "checkpoint-500/weights_0012.npy": 500,
    "checkpoint-500/step7.npy": 7,
    "step_8/a/b/model.pt": None,
    "model-00001-of-00005.safetensors": None,
    "model_step_9-00001-of-00005.safetensors": 9,
    "pytorch_model.bin.index.json": None,
    "model.safetensors": None,
    "resnet50.pt": None,
    "gpt2.safetensors": None,
    "model_v2.pt": None,
    "footstep3.pt": None,
    "step_99999999999999999999.pt": None,
    "checkpoints/model.pt": None,
}


@pytest.mark.parametrize("name", STEPS)
def test_step_of(name, tmp_path, monkeypatch):
    monkeypatch.chdir(
        tmp_path
    )  # whose own name must not matter: two directories up is as far as it looks
    (tmp_path / "runs" / "plain").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "plain")
    assert step_of(name) == STEPS[name]


def test_every_ending_is_known_to_the_names():
    assert set(OPENERS) == {*ENDINGS, ".index.json"}


# ---- memory


MEASURE = """
import sys, tracemalloc
import numpy as np
from fasthist.checkpoints import open_checkpoint

def anonymous():
    text = open("/proc/self/status").read()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

before = anonymous()
tracemalloc.start()
seen = 0
for entry in open_checkpoint(sys.argv[1]).entries:
    seen += entry.load().size
    largest = max(anonymous() - before, tracemalloc.get_traced_memory()[1])
    assert largest < 4_000_000, largest
print(seen)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_a_large_file_is_not_loaded(tmp_path, suffix):
    path, count = tmp_path / f"m.{suffix}", 25_000_000
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},)}}"
    if suffix == "safetensors":
        write_safetensors(
            path, {"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}, b""
        )
    elif suffix == "npy":
        path.write_bytes(npy_bytes(text))
    else:
        np.savez(path, w=np.zeros(count, "f4"))
    if suffix != "npz":
        with path.open("r+b") as file:
            file.truncate(
                path.stat().st_size + 4 * count
            )  # a sparse file: it takes no room on the disk
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(count)), done.stderr
