"""Optical flow files: Middlebury .flo, KITTI's 16 bit PNG and PFM, with validity.

Flow is (H,W,2) float32 pixels per frame, (u right, v down); validity (H,W) bool. Files are taken
for hostile: what a header claims is compared with the file's size before memory is taken for it.

Sources: .flo, https://vision.middlebury.edu/flow/code/flow-code/README.txt; KITTI, readme.txt of
the flow 2015 development kit; PFM, https://netpbm.sourceforge.net/doc/pfm.html, with flow in it as
FlyingThings3D has it.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

from v2v_jax.errors import DataError
from v2v_jax.system import causes
from v2v_jax.system.paths import local_path
from v2v_jax.system.whole_files import write_bytes

_MAX_SIDE = 100_000
_FLO_MAGIC = b"PIEH"  # 202021.25 as a little-endian float32
_FLO_HEADER = struct.Struct("<4sii")  # magic, width, height
_UNKNOWN = 1e9  # larger magnitudes say "unknown"
_WRITTEN_UNKNOWN = 1e10
# The last group is where a reader by lines sees the end of the header.
_PFM_HEADER = re.compile(rb"P[Ff]\s+([+-]?\d+)\s+([+-]?\d+)\s+(\S+)(?:\r?\n|[ \t])")
_PFM_HEADER_BYTES = 128
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, three methods
_PNG_HEADER_BYTES = len(_PNG_MAGIC) + 12 + _IHDR.size
_PNG_PIXELS = 1 << 25  # 8K video just fits
_PNG_BYTES = 1 << 30
_DEFLATE_RATIO = 1032  # deflate cannot do better: 258 bytes by 2 bits
_KITTI_ZERO = 1 << 15
_KITTI_STEPS = 64  # a pixel


def read_flow(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads a flow file of any of the three formats, told apart by content, not by extension.

    - .flo: a pixel is invalid where u or v is NaN or its magnitude is over 1e9.
    - KITTI PNG: u = (R - 32768) / 64, v = (G - 32768) / 64, invalid where B is 0.
    - PFM of three channels, u, v and validity: invalid as in .flo, and where the third channel is
      not positive. If that is 0 everywhere (FlyingThings3D) it says nothing and is ignored. Of the
      scale only the sign is used (negative: little endian), as is usual for flow.

    Args:
      path: the file.

    Returns:
      Flow (H,W,2) float32, pixels per frame, (u right, v down), 0 where invalid; and where it is
      valid, (H,W) bool.

    Raises:
      DataError: the file does not exist, is of no such format, truncated or damaged, or claims
        more than 100,000 pixels a side (PNG: 2^25 pixels in all).
    """
    path = local_path(os.fspath(path))
    if not os.path.isfile(path):
        reason = "is not a regular file" if os.path.exists(path) else "does not exist"
        raise DataError(f"Flow file {path} {reason}; check the path.")
    try:
        with open(path, "rb") as file:
            vectors, valid = _read(file, os.fstat(file.fileno()).st_size)
    except _Damaged as error:
        raise DataError(
            f"Flow file {path} cannot be read: {error}; fetch it again or remove it."
        ) from error
    except OSError as error:
        remedy = causes.for_reading(error) or "check the path"
        raise DataError(
            f"Flow file {path} cannot be read ({causes.reason(error)}); {remedy}."
        ) from error
    flow = np.zeros(vectors.shape, np.float32)
    np.copyto(flow, vectors, where=valid[..., None])
    return flow, valid


def write_flow(
    path: str | os.PathLike[str], flow: np.ndarray, valid: np.ndarray | None = None
) -> None:
    """Writes a flow file; its extension says of which format.

    .flo and .pfm keep float32 exactly; invalid vectors become 1e10, and .pfm's third channel is 1
    where valid, else 0. KITTI's .png rounds to the nearest 1/64 pixel; invalid pixels are 0, 0, 0.
    The file appears under its name only when it is complete.

    Args:
      path: the file to write, ending in .flo, .png or .pfm; an existing one is replaced.
      flow: (H,W,2) float (kept as float32), pixels per frame, (u right, v down); anything where
        not valid.
      valid: (H,W) bool; None says that all of it is.

    Raises:
      ValueError: another extension, shape or dtype; a valid vector that the format cannot hold:
        not finite or over 1e9, in .png rounded outside [-512, 511.984375]. Mark such vectors
        invalid.
      DataError: the folder does not exist, cannot be written, or the disk is full.
    """
    path = local_path(os.fspath(path))
    extension = os.path.splitext(path)[1].lower()
    if extension not in _ENCODERS:
        raise ValueError(f"write_flow cannot write {path}; it must end in .flo, .png or .pfm.")
    flow, valid = _checked(np.asarray(flow), valid)
    data = _ENCODERS[extension](flow, valid)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise DataError(
            f"Cannot write flow file {path} ({causes.reason(error)}); {causes.for_writing(error)}."
        ) from error


class _Damaged(Exception):
    """What is wrong with a file, and what was expected."""


def _read(file: BinaryIO, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(H,W,2) vectors, anything where invalid, and (H,W) validity of a file of `size` bytes."""
    magic = file.read(len(_PNG_MAGIC))
    file.seek(0)
    if magic.startswith(_FLO_MAGIC):
        return _read_flo(file, size)
    if magic == _PNG_MAGIC:
        return _read_png(file, size)
    if magic.startswith((b"PF", b"Pf")):
        return _read_pfm(file, size)
    raise _Damaged(
        f"it begins with {magic!r}, expected {_FLO_MAGIC!r} (.flo), {_PNG_MAGIC!r} (KITTI PNG) or "
        "b'PF' (PFM)"
    )


def _read_flo(file: BinaryIO, size: int) -> tuple[np.ndarray, np.ndarray]:
    header = file.read(_FLO_HEADER.size)
    if len(header) < _FLO_HEADER.size:
        raise _Damaged(f"it ends in its header, expected {_FLO_HEADER.size} bytes")
    _, w, h = _FLO_HEADER.unpack(header)
    vectors = _read_floats(file, size - len(header), (h, w, 2), "<f4")
    return vectors, _is_known(vectors)


def _read_pfm(file: BinaryIO, size: int) -> tuple[np.ndarray, np.ndarray]:
    header = _PFM_HEADER.match(file.read(_PFM_HEADER_BYTES))
    if header is None:
        raise _Damaged("its PFM header is damaged, expected lines 'PF', 'WIDTH HEIGHT', 'SCALE'")
    if header[0].startswith(b"Pf"):
        raise _Damaged("it is a PFM of one channel (Pf), expected three (PF): u, v, validity")
    try:
        scale = float(header[3])
    except ValueError:
        scale = 0.0
    if not math.isfinite(scale) or scale == 0:
        raise _Damaged(f"its PFM header has scale {header[3]!r}, expected a number other than 0")
    w, h = int(header[1]), int(header[2])
    file.seek(header.end())
    shape = (h, w, 3)
    values = _read_floats(file, size - header.end(), shape, "<f4" if scale < 0 else ">f4")[::-1]
    vectors, third = values[..., :2], values[..., 2]
    says_something = np.any(third != 0)
    return vectors, _is_known(vectors) & (third > 0 if says_something else True)


def _read_floats(file: BinaryIO, held: int, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Reads (H,W,C) of the header's claim from a file that holds `held` bytes after its header."""
    h, w, _ = shape
    _check_sides(h, w)
    claimed = 4 * math.prod(shape)
    if held == claimed:
        data = file.read(claimed)
        held = len(data)
    if held != claimed:
        raise _Damaged(
            f"its header claims {w}x{h} pixels, expected {claimed} bytes after it, found {held}"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _check_sides(h: int, w: int) -> None:
    if not (1 <= h <= _MAX_SIDE and 1 <= w <= _MAX_SIDE):
        raise _Damaged(f"its header claims {w}x{h} pixels, expected 1 to {_MAX_SIDE} a side")


def _is_known(vectors: np.ndarray) -> np.ndarray:
    """(H,W) bool: False where u or v is NaN, infinite or over 1e9."""
    return (np.abs(vectors) <= _UNKNOWN).all(-1)


def _read_png(file: BinaryIO, size: int) -> tuple[np.ndarray, np.ndarray]:
    header = file.read(_PNG_HEADER_BYTES)
    if len(header) < _PNG_HEADER_BYTES or header[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise _Damaged("its PNG header is damaged or cut off, expected an IHDR chunk first")
    w, h, bits, colour, *methods = _IHDR.unpack_from(header, 16)
    if (bits, colour) != (16, 2) or any(methods):
        raise _Damaged(
            f"it is a PNG of {bits} bit and colour type {colour}, interlaced {methods[2]}, "
            "expected KITTI's 16 bit RGB (16, 2, 0)"
        )
    _check_sides(h, w)
    filtered = h * (1 + 6 * w)
    if h * w > _PNG_PIXELS or filtered > _DEFLATE_RATIO * size or size > _PNG_BYTES:
        raise _Damaged(
            f"its header claims {w}x{h} pixels and it has {size} bytes, expected at most "
            f"{_PNG_PIXELS} pixels and a size that fits them"
        )
    chunks = list(_png_chunks(header + file.read(size - len(header))))
    compressed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    _check_image_data(compressed, h, w)
    colours = _decode_png(header, compressed, h, w)
    vectors = (colours[..., :2].astype(np.float32) - _KITTI_ZERO) / _KITTI_STEPS
    return vectors, colours[..., 2] != 0


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields (type, content) of every chunk before IEND, with its checksum compared."""
    view = memoryview(data)
    at = len(_PNG_MAGIC)
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(view):
            raise _Damaged(f"it ends at byte {len(view)} within a PNG chunk, expected IEND")
        kind = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise _Damaged(
                f"its PNG chunk {kind!r} at byte {at} does not have the expected checksum"
            )
        yield kind, view[at + 8 : end]
        at = end + 4


def _check_image_data(compressed: bytes, h: int, w: int) -> None:
    """Raises _Damaged unless the image data are whole; FFmpeg shows rows that are missing black."""
    filtered = h * (1 + 6 * w)
    inflate = zlib.decompressobj()
    try:
        # The one byte more lets it come to the end of its stream, where the checksum is.
        raw = inflate.decompress(compressed, filtered + 1)
    except zlib.error as error:
        raise _Damaged(f"its image data are damaged ({error}), expected a zlib stream") from error
    if len(raw) != filtered or not inflate.eof:
        raise _Damaged(
            f"its image data do not fit its {w}x{h} pixels, expected {filtered} bytes when unpacked"
        )
    if np.frombuffer(raw, np.uint8)[:: 1 + 6 * w].max() > 4:
        raise _Damaged("its image data are damaged, expected row filters 0 to 4")


def _decode_png(header: bytes, compressed: bytes, h: int, w: int) -> np.ndarray:
    """(H,W,3) uint16 by FFmpeg (Pillow keeps only 8 of the 16 bits).

    The decoder is shown the image alone: other chunks could make it RGBA, or unpack to any size.
    """
    plain = header + _chunk(b"IDAT", compressed) + _chunk(b"IEND", b"")
    context = av.CodecContext.create("png", "r")
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(plain)), *context.decode(None)]
    except av.error.FFmpegError as error:
        raise _Damaged(f"its image data are damaged ({error}), expected a PNG image") from error
    if [(f.format.name, f.height, f.width) for f in frames] != [("rgb48be", h, w)]:
        raise _Damaged("its image data are damaged, expected one 16 bit RGB image")
    return frames[0].to_ndarray()


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)])


def _checked(flow: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Flow as (H,W,2) float32 and validity as (H,W) bool; ValueError where they are not."""
    if flow.ndim != 3 or flow.shape[2] != 2 or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"flow is {flow.shape} {flow.dtype}; expected (H,W,2) float32.")
    h, w, _ = flow.shape
    if not (1 <= h <= _MAX_SIDE and 1 <= w <= _MAX_SIDE):
        raise ValueError(f"flow is {flow.shape}; expected 1 to {_MAX_SIDE} pixels a side.")
    valid = np.ones((h, w), bool) if valid is None else np.asarray(valid)
    if valid.shape != (h, w) or valid.dtype != np.bool_:
        raise ValueError(f"valid is {valid.shape} {valid.dtype}; expected {(h, w)} bool.")
    with np.errstate(over="ignore"):  # float64 that becomes infinite is found below
        flow = flow.astype(np.float32)
    _check_vectors(flow, valid & ~_is_known(flow), "finite and at most 1e9")
    return flow, valid


def _check_vectors(flow: np.ndarray, bad: np.ndarray, expected: str) -> None:
    """Raises ValueError that names the first vector (u, v) where `bad`, (H,W), is True."""
    if bad.any():
        y, x = np.argwhere(bad)[0].tolist()
        u, v = flow[y, x].tolist()
        raise ValueError(
            f"flow is ({u}, {v}) at row {y}, column {x}, and {bad.sum() - 1} more are like it; "
            f"expected {expected}, so mark them invalid."
        )


def _encode_flo(flow: np.ndarray, valid: np.ndarray) -> bytes:
    h, w = valid.shape
    vectors = np.where(valid[..., None], flow, np.float32(_WRITTEN_UNKNOWN))
    return _FLO_HEADER.pack(_FLO_MAGIC, w, h) + vectors.astype("<f4").tobytes()


def _encode_pfm(flow: np.ndarray, valid: np.ndarray) -> bytes:
    h, w = valid.shape
    vectors = np.where(valid[..., None], flow, np.float32(_WRITTEN_UNKNOWN))
    values = np.concatenate([vectors, valid[..., None]], -1, dtype="<f4")
    return f"PF\n{w} {h}\n-1.0\n".encode() + values[::-1].tobytes()


def _encode_png(flow: np.ndarray, valid: np.ndarray) -> bytes:
    h, w = valid.shape
    if h * w > _PNG_PIXELS:
        raise ValueError(f"flow is {flow.shape}; a .png has at most {_PNG_PIXELS} pixels.")
    steps = np.rint(np.where(valid[..., None], flow, 0) * _KITTI_STEPS) + _KITTI_ZERO
    bad = ((steps < 0) | (steps > 65535)).any(-1)
    _check_vectors(flow, bad, "-512 to 511.984375 in a .png")
    colours = np.zeros((h, w, 3), np.uint16)
    np.copyto(colours[..., :2], steps, where=valid[..., None], casting="unsafe")
    colours[..., 2] = valid
    context = av.CodecContext.create("png", "w")
    context.thread_count = 1
    context.height, context.width, context.pix_fmt = h, w, "rgb48be"
    context.time_base = Fraction(1, 25)
    context.options = {"pred": "mixed"}  # the best filter for each row
    frame = av.VideoFrame.from_ndarray(colours, format="rgb48be")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


_ENCODERS = {".flo": _encode_flo, ".pfm": _encode_pfm, ".png": _encode_png}
