"""Flow files: exact round trips, bytes built by hand, damaged and hostile files, writing."""

import errno
import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from v2v_jax.errors import DataError
from v2v_jax.media import flow_files
from v2v_jax.media.flow_files import read_flow, write_flow

REAL = os.environ.get("V2V_REAL_DATA", "")
needs_real_data = pytest.mark.skipif(
    not os.path.isdir(REAL), reason="V2V_REAL_DATA is not a folder with the real flow files"
)
FORMATS = (".flo", ".pfm", ".png")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# 3 x 2 pixels that all formats hold exactly; the last is invalid.
FLOW = np.array(
    [[[0, 0], [1.5, -2.25], [-512, 511.984375]], [[100, 0.015625], [-0.5, 7], [0, 0]]], np.float32
)
VALID = np.array([[True, True, True], [True, True, False]])


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def header(w: int, h: int, bits: int = 16, colour: int = 2, interlaced: int = 0) -> bytes:
    body = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", body)


def paeth(a: int, b: int, c: int) -> int:
    """PNG specification, 9.4."""
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def predict(kind: int, row: bytes, before: bytes, i: int) -> int:
    """PNG's row filters for 6 bytes a pixel: what byte i is predicted to be."""
    left, up, corner = row[i - 6] if i > 5 else 0, before[i], before[i - 6] if i > 5 else 0
    return (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind]


def filtered(colours: np.ndarray, kind: int) -> bytes:
    """The bytes of (H,W,3) as PNG packs them, every row with the same filter."""
    data, before = b"", bytes(6 * colours.shape[1])
    for values in colours:
        row = values.astype(">u2").tobytes()
        rest = [(x - predict(kind, row, before, i)) % 256 for i, x in enumerate(row)]
        data += bytes([kind, *rest])
        before = row
    return data


def png(colours: np.ndarray, kind: int = 0, parts: int = 1, more: bytes = b"") -> bytes:
    """A 16 bit RGB PNG of (H,W,3), its image in `parts` chunks, `more` chunks before them."""
    h, w, _ = colours.shape
    packed = zlib.compress(filtered(colours, kind))
    step = -(-len(packed) // parts)
    chunks = [chunk(b"IDAT", packed[i : i + step]) for i in range(0, len(packed), step)]
    return header(w, h) + more + b"".join(chunks) + chunk(b"IEND", b"")


def colours_of_png(data: bytes) -> np.ndarray:
    """(H,W,3) of a 16 bit RGB PNG, by the specification, without any library for pictures."""
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            w, h, *rest = struct.unpack(">IIBBBBB", body)
            assert rest == [16, 2, 0, 0, 0]
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    rows, before, line = [], bytes(6 * w), 6 * w + 1
    raw = zlib.decompress(packed)
    for start in range(0, len(raw), line):
        row = bytearray(raw[start + 1 : start + line])
        for i, value in enumerate(row):
            row[i] = (value + predict(raw[start], row, before, i)) % 256
        rows.append(bytes(row))
        before = row
    return np.frombuffer(b"".join(rows), ">u2").reshape(h, w, 3)


def kitti(flow: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """KITTI's (H,W,3) colours of flow that they hold exactly."""
    colours = np.concatenate([flow * 64 + 32768, np.ones_like(flow[..., :1])], -1)
    return (colours * valid[..., None]).astype(np.uint16)


def same(path: Path, flow: np.ndarray, valid: np.ndarray) -> None:
    """Asserts that a file holds this flow, to the bit, and zeros where it is invalid."""
    got, got_valid = read_flow(path)
    assert (got.dtype, got_valid.dtype) == (np.float32, np.bool_)
    np.testing.assert_array_equal(got_valid, valid)
    expected = np.where(valid[..., None], flow, 0).astype(np.float32)
    np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32))


@st.composite
def flows(draw, elements, dtype):
    """(flow (H,W,2), valid (H,W))."""
    h, w = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    flow = draw(hnp.arrays(dtype, (h, w, 2), elements=elements))
    return flow, draw(hnp.arrays(bool, (h, w)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flow")


@pytest.mark.parametrize("extension", [".flo", ".pfm"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_round_trips_of_floats_are_exact(folder, extension, data):
    values = st.floats(-1e9, 1e9, width=32)
    flow, valid = data.draw(flows(values, np.float32))
    junk = data.draw(st.sampled_from([np.nan, np.inf, 3e38, 0.0]))
    flow[~valid] = junk
    write_flow(folder / f"a{extension}", flow, valid)
    same(folder / f"a{extension}", flow, valid)


@settings(max_examples=60, deadline=None)
@given(pair=flows(st.integers(0, 65535), np.int32), junk=st.sampled_from([np.nan, np.inf, 600.0]))
def test_round_trips_of_kitti_steps_are_exact(folder, pair, junk):
    flow, valid = ((pair[0] - 32768) / 64).astype(np.float32), pair[1]
    flow[~valid] = junk
    write_flow(folder / "a.png", flow, valid)
    same(folder / "a.png", flow, valid)
    np.testing.assert_array_equal(
        colours_of_png((folder / "a.png").read_bytes()),
        kitti(np.where(valid[..., None], flow, 0), valid),
    )


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (130, 257)])
def test_sizes_and_no_validity(tmp_path, extension, size):
    flow = np.random.default_rng(0).integers(-32768, 32768, (*size, 2)).astype(np.float32) / 64
    write_flow(tmp_path / f"a{extension.upper()}", flow)
    same(tmp_path / f"a{extension.upper()}", flow, np.ones(size, bool))
    assert len(os.listdir(tmp_path)) == 1


def test_bytes_of_flo(tmp_path):
    path = tmp_path / "a.flo"
    write_flow(path, FLOW, VALID)
    stored = np.where(VALID[..., None], FLOW, 1e10).ravel().tolist()
    assert path.read_bytes() == struct.pack("<fii12f", 202021.25, 3, 2, *stored)
    # NaN, infinity and more than 1e9, in u or v, are unknown; 1e9 itself is not.
    unknown = [np.nan, 0, 0, 1.0000001e9, -np.inf, 1, 1e9, -1e9, -2e9, 0, 5, 6]
    path.write_bytes(struct.pack("<fii12f", 202021.25, 3, 2, *unknown))
    valid = np.array([[False, False, False], [True, False, True]])
    same(path, np.array(unknown).reshape(2, 3, 2), valid)


def test_bytes_of_pfm(tmp_path):
    path = tmp_path / "a.pfm"
    write_flow(path, FLOW, VALID)
    third = VALID[..., None].astype(np.float32)
    values = np.concatenate([np.where(VALID[..., None], FLOW, 1e10), third], -1)
    upwards = [*values[1].ravel().tolist(), *values[0].ravel().tolist()]
    assert path.read_bytes() == b"PF\n3 2\n-1.0\n" + struct.pack("<18f", *upwards)
    for start, order in [
        (b"PF\n3 2\n1\n", ">"),
        (b"PF 3\t2 +2.5e-1 ", ">"),
        (b"PF\r\n3 2\r\n-1.000000\r\n", "<"),
    ]:
        path.write_bytes(start + struct.pack(f"{order}18f", *upwards))
        same(path, FLOW, VALID)


def test_third_channel_of_pfm(tmp_path):
    path = tmp_path / "a.pfm"
    for third, valid in [
        ([0, 0, 0, 0], [True, True, False, True]),  # FlyingThings3D: it says nothing
        ([1, 0, 1, 1], [True, False, False, True]),
        ([255, -1, 1, np.nan], [True, False, False, False]),
    ]:
        vectors = [[1, 2], [3, 4], [np.nan, 6], [7, 8]]
        values = [x for uv, z in zip(vectors, third) for x in (*uv, z)]
        path.write_bytes(b"PF\n4 1\n-1\n" + struct.pack("<12f", *values))
        same(path, np.array([vectors]), np.array([valid]))


@pytest.mark.parametrize("kind", range(5))
def test_bytes_of_kitti_png(tmp_path, kind):
    path = tmp_path / "a.png"
    colours = np.random.default_rng(kind).integers(0, 65536, (7, 9, 3)).astype(np.uint16)
    colours[..., 2] = colours[..., 2] % 3  # any number but 0 is valid
    path.write_bytes(png(colours, kind, parts=3))
    flow = (colours[..., :2].astype(np.float32) - 32768) / 64
    same(path, flow, colours[..., 2] > 0)


def test_other_chunks_of_a_png_are_passed_over(tmp_path):
    # tRNS would make FFmpeg decode RGBA, iCCP unpack a megabyte, acTL expect an animation.
    more = chunk(b"tRNS", bytes(6)) + chunk(b"gAMA", struct.pack(">I", 45455))
    more += chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20)))
    more += chunk(b"acTL", struct.pack(">II", 9, 0)) + chunk(b"PLTE", bytes(3))
    (tmp_path / "a.png").write_bytes(png(kitti(FLOW, VALID), more=more) + b"after the end")
    same(tmp_path / "a.png", FLOW, VALID)


def test_a_written_png_is_one_for_pillow(tmp_path):
    flow = np.random.default_rng(0).uniform(-500, 500, (40, 60, 2)).astype(np.float32)
    write_flow(tmp_path / "a.png", flow)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (60, 40))
        high = np.asarray(image)[..., :2]  # it keeps 8 of 16 bits
    np.testing.assert_array_equal(high, (np.rint(flow * 64) + 32768).astype(int) >> 8)
    np.testing.assert_allclose(read_flow(tmp_path / "a.png")[0], flow, rtol=0, atol=1 / 128)


def test_the_content_says_the_format(tmp_path):
    for written in FORMATS:
        for name in ("a.flo", "b.pfm", "c.png", "d"):
            write_flow(tmp_path / f"w{written}", FLOW, VALID)
            os.replace(tmp_path / f"w{written}", tmp_path / name)
            same(tmp_path / name, FLOW, VALID)


@needs_real_data
@pytest.mark.parametrize(
    ("name", "shape", "num_valid", "at", "vector"),
    [
        (
            "middlebury/RubberWhale/RubberWhale.flo",
            (388, 584, 2),
            222970,
            (100, 200),
            (0.5310311913490295, -0.6516469120979309),
        ),
        (
            "sintel/training/flow/temple_3/frame_0022.flo",
            (436, 1024, 2),
            446464,
            (100, 200),
            (34.43634033203125, -65.75909423828125),
        ),
        ("kitti/flow_gt.png", (375, 1242, 2), 75453, (200, 300), (-110.953125, 8.53125)),
    ],
)
def test_real_files(tmp_path, name, shape, num_valid, at, vector):
    flow, valid = read_flow(Path(REAL, name))
    assert flow.shape == shape and valid.shape == shape[:2] and valid.sum() == num_valid
    assert tuple(flow[at].tolist()) == vector
    assert not flow[~valid].any()
    for extension in FORMATS[:2] if name.endswith(".flo") else FORMATS:
        write_flow(tmp_path / f"a{extension}", flow, valid)
        same(tmp_path / f"a{extension}", flow, valid)
    if num_valid == valid.size:
        assert (tmp_path / "a.flo").read_bytes() == Path(REAL, name).read_bytes()


@needs_real_data
def test_real_kitti_file_as_decoded_by_the_specification():
    # The CRC-32 of its flow as the decoder of this module, which takes seconds, gave it once.
    flow, _ = read_flow(Path(REAL, "kitti/flow_gt.png"))
    assert zlib.crc32(flow.astype("<f4").tobytes()) == 2945819288


def damaged(path: Path, message: str) -> None:
    """Asserts a DataError of one sentence that names the file and what is wrong, cheaply."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=re.escape(path.name)) as info:
            read_flow(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    said = str(info.value)
    assert re.search(message, said), said
    assert said.count("\n") == 0 and said.endswith(".") and "expected" in said
    assert peak < 1 << 18, f"{peak} bytes"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with b''"),
        (b"I am no flow file", "begins with b'I am no '"),
        (b"HEIP" + struct.pack(">ii", 3, 2) + bytes(48), "begins with b'HEIP"),
        (b"P6\n3 2\n255\n" + bytes(18), "begins with b'P6"),
        (struct.pack("<fi", 202021.25, 3), "ends in its header"),
        (struct.pack("<fii", 202021.25, 2**31 - 1, 2**31 - 1), "claims 2147483647x2147483647"),
        (struct.pack("<fii", 202021.25, 100_000, 100_000), "expected 80000000000 bytes .* found 0"),
        (struct.pack("<fii", 202021.25, -3, -2) + bytes(48), "claims -3x-2 pixels"),
        (struct.pack("<fii", 202021.25, 0, 2), "claims 0x2 pixels"),
        (struct.pack("<fii", 202021.25, 3, 2) + bytes(49), "expected 48 bytes .* found 49"),
        (b"PF\n100000 100000\n-1\n" + bytes(24), "expected 120000000000 bytes .* found 24"),
        (b"PF\n" + b"9" * 60 + b" 2\n-1\n", "claims 9{60}x2 pixels"),
        (b"PF\n" + b"9" * 5000 + b" 2\n-1\n", "PFM header is damaged"),
        (b"PF\n-3 2\n-1\n" + bytes(72), "claims -3x2 pixels"),
        (b"PF\n3 2\n-1\n" + bytes(73), "expected 72 bytes .* found 73"),
        (b"PF\n3 2\n0\n" + bytes(72), "scale b'0'"),
        (b"PF\n3 2\nnan\n" + bytes(72), "scale b'nan'"),
        (b"PF\n3 2\n1.2.3\n" + bytes(72), "scale b'1.2.3'"),
        (b"PF\n3.0 2\n-1\n" + bytes(72), "PFM header is damaged"),
        (b"Pf\n3 2\n-1\n" + bytes(24), "one channel"),
    ],
)
def test_hostile_headers(tmp_path, content, message):
    (tmp_path / "a.flow").write_bytes(content)
    damaged(tmp_path / "a.flow", message)


def png_of(start: bytes, data: bytes, packed: bool = False) -> bytes:
    body = data if packed else zlib.compress(data)
    return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_of(header(2**31 - 1, 2**31 - 1), bytes(38)), "claims 2147483647x2147483647 pixels"),
        (png_of(header(0, 2), bytes(38)), "claims 0x2 pixels"),
        (png_of(header(60_000, 60_000), bytes(38)), "at most 33554432 pixels"),
        (png_of(header(5000, 5000), bytes(38)), "size that fits"),
        (png_of(header(3, 2, bits=8), bytes(20)), "a PNG of 8 bit"),
        (png_of(header(3, 2, colour=0), bytes(14)), "colour type 0"),
        (png_of(header(3, 2, colour=6), bytes(50)), "colour type 6"),
        (png_of(header(3, 2, interlaced=1), bytes(50)), "interlaced 1"),
        (png_of(header(3, 2), bytes(37)), "image data do not fit its 3x2 pixels"),
        (png_of(header(3, 2), bytes(39)), "image data do not fit its 3x2 pixels"),
        (png_of(header(3, 2), bytes(1 << 22)), "image data do not fit its 3x2 pixels"),
        (png_of(header(3, 2), b"\5" + bytes(37)), "row filters 0 to 4"),
        (png_of(header(3, 2), b"no zlib stream", packed=True), "image data are damaged"),
        (png_of(header(3, 2), zlib.compress(bytes(38))[:-2], packed=True), "do not fit"),
        (header(3, 2) + chunk(b"IEND", b""), "image data do not fit"),
        (SIGNATURE + header(3, 2)[8:].replace(b"IHDR", b"IHDX"), "IHDR chunk first"),
        (header(3, 2) + struct.pack(">I", 2**32 - 1) + b"IDAT" + bytes(40), "within a PNG chunk"),
    ],
)
def test_hostile_pngs(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    damaged(tmp_path / "a.png", message)


@pytest.mark.parametrize("extension", FORMATS)
def test_truncated_at_every_length(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    write_flow(path, FLOW, VALID)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cannot be read: .*expected"):
            read_flow(path)


def test_every_damaged_byte_of_a_png_is_found(tmp_path):
    content = png(kitti(FLOW, VALID))
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 0x55
        (tmp_path / "a.png").write_bytes(broken)
        with pytest.raises(DataError, match="cannot be read: .*expected"):
            read_flow(tmp_path / "a.png")


def test_paths_that_are_no_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none\.flo does not exist"):
        read_flow(tmp_path / "none.flo")
    with pytest.raises(DataError, match="is not a regular file"):
        read_flow(tmp_path)
    os.mkfifo(tmp_path / "pipe.flo")  # opening it would wait for ever
    with pytest.raises(DataError, match=r"pipe\.flo is not a regular file"):
        read_flow(tmp_path / "pipe.flo")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    write_flow(tmp_path / "a.flo", FLOW)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"a\.flo cannot be read \(Permission denied\)"):
        read_flow(tmp_path / "a.flo")


def test_bad_destinations(tmp_path):
    with pytest.raises(DataError, match=r"b\.flo \(No such file or directory\); choose an exist"):
        write_flow(tmp_path / "none" / "b.flo", FLOW)
    (tmp_path / "folder.flo").mkdir()
    with pytest.raises(DataError, match=r"folder\.flo \(Is a directory\)"):
        write_flow(tmp_path / "folder.flo", FLOW)
    assert os.listdir(tmp_path) == ["folder.flo"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.flo").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device.*make room"):
        write_flow(tmp_path / "a.flo", FLOW)
    assert os.listdir(tmp_path) == ["a.flo"]
    assert (tmp_path / "a.flo").read_bytes() == b"before"


def with_value(value: float, dtype=np.float32) -> np.ndarray:
    flow = np.zeros((2, 3, 2), dtype)
    flow[1, 2, 0] = value
    return flow


@pytest.mark.parametrize(
    ("name", "flow", "valid", "message"),
    [
        ("a.txt", FLOW, None, r"must end in \.flo, \.png or \.pfm"),
        ("flo", FLOW, None, r"must end in \.flo"),
        ("a.flo", FLOW[0], None, r"expected \(H,W,2\) float32"),
        ("a.flo", np.zeros((2, 3, 3), np.float32), None, r"expected \(H,W,2\) float32"),
        ("a.flo", FLOW.astype(int), None, "int64; expected"),
        ("a.flo", np.zeros((0, 3, 2), np.float32), None, "expected 1 to 100000 pixels"),
        ("a.flo", np.zeros((1, 100_001, 2), np.float32), None, "expected 1 to 100000 pixels"),
        ("a.flo", FLOW, VALID[0], r"valid is \(3,\) bool; expected \(2, 3\) bool"),
        ("a.flo", FLOW, VALID.astype(np.uint8), "valid is .* uint8"),
        ("a.flo", with_value(np.nan), None, r"\(nan, 0.0\) at row 1, column 2, and 0 more"),
        ("a.pfm", with_value(-np.inf), None, "finite and at most 1e9"),
        ("a.pfm", with_value(1e300, np.float64), None, "finite and at most 1e9"),
        ("a.png", with_value(2e9), None, "finite and at most 1e9"),
        ("a.png", with_value(512), None, r"-512 to 511.984375 in a \.png"),
        ("a.png", with_value(511.9925), None, "mark them invalid"),
        ("a.png", with_value(-512.01), None, "mark them invalid"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, flow, valid, message):
    with pytest.raises(ValueError, match=message):
        write_flow(tmp_path / name, flow, valid)
    assert not os.listdir(tmp_path)


def test_a_png_with_more_pixels_than_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_files, "_PNG_PIXELS", 6)
    write_flow(tmp_path / "a.png", FLOW, VALID)
    same(tmp_path / "a.png", FLOW, VALID)
    monkeypatch.setattr(flow_files, "_PNG_PIXELS", 5)
    with pytest.raises(ValueError, match=r"a \.png has at most 5 pixels"):
        write_flow(tmp_path / "a.png", FLOW, VALID)
    with pytest.raises(DataError, match="expected at most 5 pixels"):
        read_flow(tmp_path / "a.png")


def test_other_float_types_and_the_ends_of_the_range(tmp_path):
    for dtype in (np.float16, np.float64):
        write_flow(tmp_path / "a.flo", FLOW.astype(dtype), VALID)
        same(tmp_path / "a.flo", FLOW.astype(dtype), VALID)
    for value, stored in [(511.99, 511.984375), (-512.005, -512), (0.0079, 1 / 64), (-0.007, 0)]:
        write_flow(tmp_path / "a.png", with_value(value))
        assert read_flow(tmp_path / "a.png")[0][1, 2].tolist() == [stored, 0]
