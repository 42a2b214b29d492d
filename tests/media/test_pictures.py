"""The one reader of pictures: every kind of them as frames and as masks, and hostile ones."""

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from tests.tiny import ROOT
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.pictures import MAX_PIXELS, Picture

SHAPE = (6, 8)
GREY = (5 * np.arange(48).reshape(SHAPE)).astype(np.uint8)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], -1)


def encoded(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(values, mode=None, kind="PNG", **options) -> Picture:
    image = PIL.Image.fromarray(values)
    return Picture(encoded(image.convert(mode) if mode else image, kind, **options), "x.png")


def repeated(grey):
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=-1)


def test_nobody_else_opens_pictures():
    # Pages of reports and figures are drawn by matplotlib; what is read, is read here.
    pattern = re.compile(r"Image\.open\(|plt\.imread|cv2\.imread|imageio")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "v2v_jax").rglob("*.py")
        if pattern.search(path.read_text())
    ]
    assert found == ["v2v_jax/media/pictures.py"]


# ------------------------------------------------------------------------------------------------
# Frames


@pytest.mark.parametrize(
    ("values", "mode", "kind", "expected"),
    [
        (GREY, None, "PNG", repeated(GREY)),
        (COLOUR, None, "PNG", COLOUR),
        (COLOUR, None, "TIFF", COLOUR),
        (COLOUR, None, "BMP", COLOUR),
        (COLOUR, None, "PPM", COLOUR),
        (GREY > 90, None, "PNG", repeated(255 * (GREY > 90))),
        (GREY, "LA", "PNG", repeated(GREY)),
        (COLOUR, "RGBA", "PNG", COLOUR),
        (GREY.astype(np.uint16) * 257, None, "PNG", repeated(GREY)),
        (GREY.astype(np.uint16) * 257, None, "TIFF", repeated(GREY)),
        (GREY.astype(np.int32) * 257, None, "PPM", repeated(GREY)),
    ],
)
def test_frames(values, mode, kind, expected):
    found = picture(values, mode, kind).frame()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_16_bits_are_rounded_to_8():
    values = np.array([[0, 128, 129, 32767, 32768, 65535]], np.uint16)
    np.testing.assert_array_equal(picture(values).frame()[0, :, 0], [0, 0, 1, 127, 128, 255])


def test_opacity_is_left_out_and_not_blended():
    values = np.dstack([COLOUR, np.arange(48, dtype=np.uint8).reshape(SHAPE)])
    np.testing.assert_array_equal(picture(values).frame(), COLOUR)
    palette = PIL.Image.fromarray(GREY % 3)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Picture(encoded(palette, transparency=b"\x00\x80\xff")).frame()
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    np.testing.assert_array_equal(found, colours[GREY % 3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation, kind):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = PIL.Image.fromarray(np.kron(COLOUR, np.ones((8, 8, 1), np.uint8)))
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}
    data = encoded(image, kind, exif=exif, **lossless.get(kind, {}))
    expected = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))
    found = Picture(data)
    assert found.size == expected.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    np.testing.assert_array_equal(found.frame(), expected)
    assert found.frame((9, 5)).shape == (9, 5, 3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_masks_are_turned_too(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    for values in (GREY, GREY.astype(np.uint16) * 200):
        image = PIL.Image.fromarray(values)
        data = encoded(image, exif=exif)
        expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(Picture(data).numbers(), np.asarray(expected))


def test_broken_exif_data_do_not_stop_a_sound_picture():
    data = encoded(PIL.Image.fromarray(COLOUR), exif=b"Exif\0\0MM\0*\0\0\0")
    assert b"eXIf" in data
    np.testing.assert_array_equal(Picture(data).frame(), COLOUR)


def several(kind: str, sizes) -> bytes:
    first, *rest = (PIL.Image.new("L", size, 60 * n) for n, size in enumerate(sizes))
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=rest)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_several_pictures_in_a_file_are_not_passed_over(kind):
    """An animation, or a microscope's stack: the first alone would be taken for all."""
    held = Picture(several(kind, [(9, 7)] * 3), "stack")
    for read in (held.frame, held.numbers):
        with pytest.raises(DataError, match="stack holds 3 pictures of one size; write each"):
            read()
    assert Picture(several(kind, [(9, 7)])).frame().shape == (7, 9, 3)


def test_smaller_ones_of_the_same_picture_do_not_count():
    held = Picture(several("TIFF", [(64, 48), (32, 24), (16, 12)]))
    assert held.size == (48, 64) and not held.numbers().any()


def test_resizing_is_bicubic_and_leaves_a_size_that_fits():
    wide = np.kron(COLOUR, np.ones((4, 4, 1), np.uint8))
    expected = PIL.Image.fromarray(wide).resize((7, 5), PIL.Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(picture(wide).frame((5, 7)), np.asarray(expected))
    np.testing.assert_array_equal(picture(COLOUR).frame(SHAPE), COLOUR)


@pytest.mark.parametrize(
    ("values", "mode", "kind", "message"),
    [
        (np.full(SHAPE, 0.5, np.float32), None, "TIFF", "x.png holds floating point numbers"),
        (GREY.astype(np.int32), None, "TIFF", "x.png holds 32-bit numbers"),
        (COLOUR, "CMYK", "JPEG", r"x.png holds printing inks \(CMYK\); convert it to RGB"),
        (COLOUR, "LAB", "TIFF", "x.png is of Pillow's mode LAB, which is not supported"),
    ],
)
def test_what_cannot_be_shown_faithfully(values, mode, kind, message):
    with pytest.raises(DataError, match=message):
        picture(values, mode, kind).frame()


# ------------------------------------------------------------------------------------------------
# Masks


@pytest.mark.parametrize(
    ("values", "mode", "kind"),
    [
        (GREY, None, "PNG"),
        (GREY, "LA", "PNG"),
        (GREY.astype(np.uint16) * 200, None, "PNG"),
        (GREY.astype(np.uint16) * 200, None, "TIFF"),
        (GREY.astype(np.int32) * 70000, None, "TIFF"),
        ((GREY > 90).astype(np.uint8), "1", "PNG"),
    ],
)
def test_numbers_are_what_the_file_holds(values, mode, kind):
    image = PIL.Image.fromarray(values > 0 if mode == "1" else values)
    found = Picture(encoded(image.convert(mode) if mode else image, kind)).numbers()
    assert np.issubdtype(found.dtype, np.integer) and found.dtype.isnative
    np.testing.assert_array_equal(found, values)


def test_palette_pictures_never_go_through_colours():
    image = PIL.Image.fromarray(GREY % 5)
    image.putpalette([9, 9, 9] * 4 + [1, 2, 3])  # four numbers look the same
    found = Picture(encoded(image))
    assert found.kind == "palette"
    np.testing.assert_array_equal(found.numbers(), GREY % 5)
    np.testing.assert_array_equal(found.palette()[[0, 4]], [[9, 9, 9], [1, 2, 3]])


@pytest.mark.parametrize("most", [1, 8, 255, 1000, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_pgm_masks_are_not_scaled_by_their_greatest_number(most, plain):
    values = GREY.astype(np.int64) * most // 255
    header = f"P{2 if plain else 5}\n8 6\n{most}\n".encode()
    if plain:
        body = " ".join(map(str, values.ravel())).encode()
    else:
        body = values.astype(">u2" if most > 255 else "u1").tobytes()
    np.testing.assert_array_equal(Picture(header + body).numbers(), values)


def test_colours_are_no_numbers():
    with pytest.raises(DataError, match="x.png is of Pillow's mode RGB; expected numbers"):
        picture(COLOUR).numbers()
    with pytest.raises(DataError, match="floating point"):
        picture(np.zeros(SHAPE, np.float32), None, "TIFF").numbers()


# ------------------------------------------------------------------------------------------------
# Damage


def png_header(width, height):
    """A PNG file that claims a size and holds next to nothing."""
    chunks = b""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", body), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(content)) + kind + content
        chunks += struct.pack(">I", zlib.crc32(kind + content))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("side", [8193, 12_000, 20_000, 65_535])
@pytest.mark.filterwarnings("error")
def test_one_limit_and_one_error_for_huge_pictures(side):
    with pytest.raises(CorruptVideoError, match=f"has more than {MAX_PIXELS} pixels"):
        Picture(png_header(side, side))


def test_the_largest_picture_is_opened():
    assert Picture(png_header(8192, 8192)).size == (8192, 8192)


# Says by how much reading a picture raises what its process has at most in memory, in MiB. Not by
# getrusage, where a program that starts begins with what the one that started it has had.
_PEAK = """
import sys
from v2v_jax.errors import CorruptVideoError
from v2v_jax.media.pictures import Picture

def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

path, read = sys.argv[1:]
before = peak()
try:
    print(getattr(Picture(path), read)().shape, end=" ")
except CorruptVideoError as error:
    print("refused", end=" ")
print(round(peak() - before))
"""


def peak_of_reading(path, read: str) -> tuple[str, int]:
    """What came of it, and MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path), read],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result, _, mebibytes = done.stdout.rpartition(" ")
    return result, int(mebibytes)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
def test_a_picture_that_is_too_large_takes_no_memory(tmp_path):
    """A good one, of 37 kB; decoded as RGB it would take 192 MiB."""
    PIL.Image.new("1", (8192, 8193)).save(tmp_path / "huge.png")
    result, mebibytes = peak_of_reading(tmp_path / "huge.png", "frame")
    assert result == "refused" and mebibytes < 50


# Mode, extension, how it is read, MiB that it may take: 1.2 times what was measured.
LARGEST = [
    *(("L", "png", "frame", 850), ("RGBA", "png", "frame", 1080), ("I;16", "png", "frame", 1230)),
    *(("LA", "png", "numbers", 920), ("I;16", "png", "numbers", 620)),
    *(("RGB", "jpg", "frame", 1080), ("RGB", "tiff", "frame", 1000), ("RGB", "bmp", "frame", 770)),
    ("RGB", "webp", "frame", 1700),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
@pytest.mark.parametrize("mode, extension, read, most", LARGEST)
def test_the_largest_picture_takes_bounded_memory(tmp_path, mode, extension, read, most):
    """8192×8192: 192 MiB as RGB. On its side, where the file can say so: that takes a copy."""
    image, exif = PIL.Image.new(mode, (8192, 8192)), PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"largest.{extension}"
    image.save(path, **({} if extension == "bmp" else dict(exif=exif)))
    result, mebibytes = peak_of_reading(path, read)
    print(f"{mode} {extension}, {read}: {mebibytes} MiB")
    assert result == ("(8192, 8192, 3)" if read == "frame" else "(8192, 8192)")
    assert 100 < mebibytes < most


def test_what_is_no_picture(tmp_path):
    whole = encoded(PIL.Image.fromarray(np.kron(COLOUR, np.ones((9, 9, 1), np.uint8))))
    with pytest.raises(CorruptVideoError, match="cannot be read"):
        Picture(whole[: len(whole) * 2 // 3]).frame()
    for data in (b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(CorruptVideoError, match=r"it has none of the formats BMP, JPEG"):
            Picture(data)
    with pytest.raises(CorruptVideoError, match="No such file or directory.; check the path"):
        Picture(tmp_path / "none.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(CorruptVideoError, match="it is not a regular file"):
        Picture(tmp_path / "pipe.png")
