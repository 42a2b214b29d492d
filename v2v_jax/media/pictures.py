"""Pictures: frames as RGB, masks as the numbers that they hold. Pillow reads the files.

The only place that opens pictures. A frame is turned upright (EXIF), 16-bit grey is scaled to 8
bits, opacity is left out; a mask of class numbers, also a palette picture, never goes through
colours. What cannot be shown faithfully (floating point and 32-bit numbers, whose range nobody
knows, and printing inks) is an error that says so.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.frame_arrays import check_size
from v2v_jax.system import causes

MAX_PIXELS = 1 << 26  # of one picture: cameras have 61 million, and a decoded one takes 256 MiB
_MAX_BYTES = 1 << 30  # of one file
# Not all that Pillow knows: EPS, for one, would start a program.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What Pillow raises for pictures that are damaged, or claim to be huge.
_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, OverflowError, TypeError),
    *(NotImplementedError, struct.error, zlib.error),
    PIL.Image.DecompressionBombError,
    PIL.Image.DecompressionBombWarning,  # where warnings are errors
)
# What Pillow says of variants that it cannot read, or not as it is installed.
_NOT_KNOWN = re.compile(r"(?i)unsupported|not (supported|implemented|available)|cannot handle")
Kind = Literal["grey", "palette", "colour", "other"]
# By Pillow's mode; those of 16-bit grey begin with I;16. Mode I is of 32 bits but for PGM files.
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"), "grey"),
    **dict.fromkeys(("P", "PA"), "palette"),
    **dict.fromkeys(("RGB", "RGBA", "RGBa", "RGBX", "YCbCr"), "colour"),
}
_NOT_SHOWN = {
    "F": "holds floating point numbers, whose range is not known; convert it to 8 or 16 bits",
    "I": "holds 32-bit numbers, whose range is not known; convert it to 8 or 16 bits",
    "CMYK": "holds printing inks (CMYK); convert it to RGB",
}
_LABELS = "v2v_jax labels"  # keyword of a PNG file's text
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class Picture:
    """A picture whose header is read and whose pixels are not decoded yet.

    Attributes:
      name: for messages.
      mode: Pillow's, which says what the file holds.
      kind: "grey" (also black and white, also of 16 bits), "palette", "colour" or "other".
      size: (H, W), upright.
      only_numbers: whether a palette is there to be looked at alone, as in `write_labels`' files.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str = "") -> None:
        """Opens a picture.

        Args:
          source: its path, or the file's content.
          name: for messages; the path where it is left out.

        Raises:
          CorruptVideoError: it is no picture, cannot be opened, or has more than MAX_PIXELS.
        """
        self.name = name or (repr(source[:8]) if isinstance(source, bytes) else os.fspath(source))
        data = source if isinstance(source, bytes) else _read_file(os.fspath(source), self.name)
        with self._damage():
            self._image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = self._image.size
            if width * height > MAX_PIXELS:
                raise PIL.Image.DecompressionBombError(f"{width}x{height}")
            self._count = _count(self._image)
            self._turn = _UPRIGHT.get(_orientation(self._image))
            self.only_numbers = _LABELS in self._image.info
        self.mode = self._image.mode
        self.kind: Kind = _KINDS.get(self.mode, "other")
        on_its_side = self._turn is not None and self._turn not in (
            *(_UPRIGHT[2], _UPRIGHT[3], _UPRIGHT[4]),
        )
        self.size = (width, height) if on_its_side else (height, width)

    def frame(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The picture as RGB, upright, without its opacity.

        Args:
          size: (H, W) to resize to (bicubic, antialiased); None keeps its own.

        Returns:
          (H,W,3) uint8 RGB, 0..255. Grey of 16 bits is divided by 257 and rounded.

        Raises:
          CorruptVideoError: the picture is damaged.
          DataError: it is of a kind that cannot be shown faithfully.
          ValueError: `size` is not (H,W), whole numbers of at least 1.
        """
        check_size(size)
        self._check_single()
        sixteen = self._is_16_bit()
        if self.kind == "other" or (self.mode == "I" and not sixteen):
            raise self._not_shown()
        with self._damage():
            image = self._image
            if sixteen:
                grey = np.asarray(image).astype(np.float32) / 257
                image = PIL.Image.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
            elif self.mode in ("RGBa", "La"):  # colours multiplied by their opacity
                image = image.convert({"RGBa": "RGBA", "La": "LA"}[self.mode])
            else:
                image.load()
                image.info.pop("transparency", None)  # Pillow warns that it drops it
            if image.mode != "RGB":  # else it would be a copy, of 256 MiB for the largest
                image = image.convert("RGB")
            if self._turn is not None:
                image = image.transpose(self._turn)
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)
            return np.asarray(image)

    def numbers(self) -> np.ndarray:
        """What a grey or palette picture holds, not scaled and never through colours.

        Returns:
          (H,W) uint8, uint16 or int32, upright; black and white is 0 and 1, opacity is left out.

        Raises:
          CorruptVideoError: the picture is damaged.
          DataError: it is of another kind.
        """
        self._check_single()
        if self.kind not in ("grey", "palette"):
            raise self._not_shown("; expected numbers, as grey or palette pictures hold them")
        with self._damage():
            most = _pnm_maximum(self._image)
            image = self._image if self._turn is None else self._image.transpose(self._turn)
            values = np.asarray(image)
        if values.ndim == 3:  # with opacity
            values = values[..., 0]
        if values.dtype == np.bool_:
            return values.astype(np.uint8)
        if most is not None:  # Pillow has scaled them to all of 8 or 16 bits
            whole = 255 if self.mode == "L" else 65535
            return np.rint(values * (most / whole)).astype(values.dtype)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def palette(self) -> np.ndarray:
        """(N,3) uint8 RGB: the colours of a palette picture's numbers."""
        with self._damage():
            return np.array(self._image.getpalette("RGB"), np.uint8).reshape(-1, 3)

    def _check_single(self) -> None:
        if self._count > 1:
            raise DataError(
                f"Picture {self.name} holds {self._count} pictures of one size; write each of them "
                "to a file of its own, or make a video of them."
            )

    def _is_16_bit(self) -> bool:
        return self.mode.startswith("I;16") or (self.mode == "I" and self._image.format == "PPM")

    def _not_shown(self, expected: str = "") -> DataError:
        if expected and self.mode not in _NOT_SHOWN:
            return DataError(f"Picture {self.name} is of Pillow's mode {self.mode}{expected}.")
        reason = _NOT_SHOWN.get(
            self.mode, f"is of Pillow's mode {self.mode}, which is not supported; convert it to RGB"
        )
        return DataError(f"Picture {self.name} {reason}.")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Turns what Pillow raises into a CorruptVideoError."""
        try:
            yield
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
            raise CorruptVideoError(
                f"Picture {self.name} has more than {MAX_PIXELS} pixels, which is the limit; "
                "make it smaller."
            ) from error
        except PIL.UnidentifiedImageError as error:
            raise CorruptVideoError(
                f"Picture {self.name} cannot be read (it has none of the formats "
                f"{', '.join(_FORMATS)}); convert it, or fetch or unpack it again."
            ) from error
        except MemoryError as error:
            raise CorruptVideoError(
                f"Picture {self.name} cannot be read ({causes.reason(error)}); "
                f"{causes.for_reading(error)}."
            ) from error
        except _ERRORS as error:
            reason = str(error).split("\n")[0][:100] or type(error).__name__
            remedy = "expected a complete picture file, so fetch or unpack it again"
            if _NOT_KNOWN.search(reason):
                remedy = "convert it to PNG"
            raise CorruptVideoError(
                f"Picture {self.name} cannot be read ({reason}); {remedy}."
            ) from error


def _read_file(path: str, name: str) -> bytes:
    """The content of a file; in memory, since a picture that is not decoded keeps its file open."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise OSError(None, "it is not a regular file")  # reading a pipe would wait for ever
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                raise OSError(None, f"it has more than {_MAX_BYTES >> 20} MiB")
            return file.read()
    except (OSError, MemoryError) as error:
        remedy = causes.for_reading(error) or "check the path"
        kind = DataError if causes.is_of_machine(error) else CorruptVideoError
        message = f"Picture {name} cannot be read ({causes.reason(error)}); {remedy}."
        raise kind(message) from error


def _count(image: PIL.Image.Image) -> int:
    """How many pictures of one size a file holds: an animation, or a stack of a microscope.

    Smaller ones of the same picture do not count, nor what telephones put behind a JPEG.
    """
    if image.format not in ("TIFF", "PNG", "WEBP"):
        return 1
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "TIFF":
        size = image.size
        image.seek(1)
        count = count if image.size == size else 1
        image.seek(0)
    return count


def _orientation(image: PIL.Image.Image) -> int:
    """How the picture lies, 1 to 8 as EXIF numbers it; 1 is upright.

    Pillow itself turns TIFF files. In a PNG file only EXIF data before the pixels count: to find
    later ones Pillow would decode the picture.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels may be sound where Pillow stumbles over such accessories
        return 1


def _pnm_maximum(image: PIL.Image.Image) -> int | None:
    """The greatest number that a PGM file says to hold, where Pillow scales by it."""
    if image.format != "PPM" or not image.tile or image.tile[0].codec_name == "raw":
        return None
    arguments = image.tile[0].args
    return arguments[1] if isinstance(arguments, tuple) and image.mode != "1" else None


def write_labels(
    path: str | os.PathLike[str], labels: np.ndarray, colors: np.ndarray, names: Sequence[str]
) -> None:
    """Writes labels as a palette PNG: its numbers are the labels, its colours show them to people.

    The file says so in a text of its own, which `Picture.only_numbers` finds again.

    Args:
      labels: (H,W) uint8, 0..K-1.
      colors: (K,3) uint8 RGB.
      names: K names, for the text.

    Raises:
      OSError: it cannot be written.
    """
    image = PIL.Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    image.putpalette(colors.astype(np.uint8).tobytes(), "RGB")
    text = PIL.PngImagePlugin.PngInfo()
    text.add_itxt(_LABELS, ", ".join(f"{index}: {name}" for index, name in enumerate(names)))
    image.save(path, pnginfo=text)
