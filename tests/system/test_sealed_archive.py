"""Sealed archives: what they claim is compared with the file before anything is read."""

import io
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from v2v_jax.system.npy import array_of
from v2v_jax.system.sealed_archive import (
    NoArchiveError,
    digest,
    read_member,
    read_sealed,
    write_sealed,
)

MEMBERS = {"about.json": b"{}", "weights/a.npy": bytes(range(256)) * 40}


@pytest.fixture(params=[False, True], ids=["stored", "compressed"])
def sealed(request, tmp_path):
    write_sealed(tmp_path / "a", MEMBERS, compress=request.param)
    return tmp_path / "a", request.param


def test_what_was_written_is_read(sealed):
    path, compressed = sealed
    assert read_sealed(path, compressed=compressed) == (MEMBERS, True)
    assert read_member(path, "about.json") == b"{}"
    before = path.read_bytes()
    write_sealed(path, MEMBERS, compress=compressed)
    assert path.read_bytes() == before


def archive(path, method, members=MEMBERS):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
        file.comment = digest(members).encode()
    return path


@pytest.mark.parametrize("method", ["DEFLATED", "BZIP2", "LZMA"])
def test_members_that_are_compressed_in_another_way(tmp_path, method):
    path = archive(tmp_path / "a", getattr(zipfile, f"ZIP_{method}"))
    with pytest.raises(NoArchiveError, match="is compressed in another way"):
        read_sealed(path)
    if method != "DEFLATED":
        with pytest.raises(NoArchiveError, match="is compressed in another way"):
            read_sealed(path, compressed=True)


@pytest.mark.parametrize("code", [9, 93, 99])  # deflate64, zstd, AES
def test_methods_that_python_does_not_know(tmp_path, code):
    path = archive(tmp_path / "a", zipfile.ZIP_STORED)
    data = path.read_bytes()
    # The method stands 8 bytes into a local header and 10 into an entry of the directory.
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        begin = data.index(mark)
        data = data[: begin + at] + struct.pack("<H", code) + data[begin + at + 2 :]
    path.write_bytes(data)
    for compressed in (False, True):
        with pytest.raises(NoArchiveError, match="'about.json' is compressed in another way"):
            read_sealed(path, compressed=compressed)


def test_encrypted_members(tmp_path):
    path = archive(tmp_path / "a", zipfile.ZIP_STORED)
    data = path.read_bytes()
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        begin = data.index(mark)
        data = data[: begin + at] + b"\1\0" + data[begin + at + 2 :]
    path.write_bytes(data)
    with pytest.raises(NoArchiveError, match="'about.json' is encrypted"):
        read_sealed(path)


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
    path = archive(tmp_path / "a", zipfile.ZIP_DEFLATED, {"weights/a.npy": bytes(1 << 27)})
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    start = time.perf_counter()
    try:
        for compressed in (False, True):
            with pytest.raises(NoArchiveError, match="compressed in another|claim 134217728 bytes"):
                read_sealed(path, compressed=compressed)
        with pytest.raises(NoArchiveError, match="claim 134217728 bytes"):
            read_member(path, "weights/a.npy")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 2


def test_members_of_one_name_and_members_that_overlap(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as file, pytest.warns(UserWarning):
        file.writestr("x", b"1")
        file.writestr("x", b"2")
    with pytest.raises(NoArchiveError, match="two of one name"):
        read_sealed(tmp_path / "a")
    path = archive(tmp_path / "b", zipfile.ZIP_STORED, {f"{i:03d}": bytes(9000) for i in range(30)})
    with zipfile.ZipFile(path) as file:
        one = file.infolist()[0]
        data = path.read_bytes()
        directory = file.start_dir
    # All entries of the directory lead to the first member, and the others' bytes are gone.
    entries = bytearray(data[directory:])
    step = 46 + 3
    for index in range(30):
        entries[step * index + 42 : step * index + 46] = struct.pack("<I", one.header_offset)
        entries[step * index + 46 : step * index + 49] = f"{index:03d}".encode()
    head = data[: 30 + 3 + 9000]
    end = entries.rindex(b"PK\5\6")
    entries[end + 16 : end + 20] = struct.pack("<I", len(head))
    path.write_bytes(head + bytes(entries))
    with pytest.raises(NoArchiveError, match="claim 270000 bytes, in a file of"):
        read_sealed(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4" + bytes(60), b"PK\5\6" + bytes(18)])
def test_files_that_are_no_archive(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    try:
        members, intact = read_sealed(tmp_path / "a")
    except NoArchiveError as error:
        assert 0 < len(str(error)) <= 300
    else:
        assert members == {} and not intact


# ------------------------------------------------------------------------------------------------
# Arrays


def npy(header: bytes, data: bytes, version: bytes = b"\1\0") -> bytes:
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize("dtype", ["f4", ">f8", "f2", "i1", "u2", "?"])
@pytest.mark.parametrize("order", "CF")
def test_arrays_are_what_was_saved(dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype, order=order)
    file = io.BytesIO()
    np.save(file, array)
    np.testing.assert_array_equal(array_of(file.getvalue()), array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an array"),
        (b"\x93NUMPY\3\0" + bytes(40), "unknown version"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}", b""), "not an array"),
        (
            npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}", bytes(8)),
            "claims .99999999999,. in 8 bytes",
        ),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", bytes(8)), "claims"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "claims"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "not of number"),
        (npy(b"{'descr': '<U2', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "not of numbe"),
        (npy(b"[" * 100, bytes(8)), "not an array"),
    ],
)
def test_arrays_that_claim_something_else(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        array_of(data)
    assert len(str(caught.value)) < 200
