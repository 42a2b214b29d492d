"""Opening files of video and sound by PyAV: from the disk alone, and whatever their names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import av

# Not those of playlists (HLS, concat, …), which would open other files, or addresses.
_VIDEO = (
    "3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,"
    "nut,obu,ogg,rm,webm,yuv4mpegpipe"
)
_SOUND = "aac,ac3,aiff,caf,eac3,flac,mp3,w64,wav"
# Titles and names of tracks are in whatever code their writer had; nobody reads them here. PyAV 19
# has no such option any more.
_OLD = int(av.__version__.partition(".")[0]) < 19
_TITLES: dict[str, Any] = {"metadata_errors": "replace"} if _OLD else {}


def open_input(
    path: str | os.PathLike[str], *, all_frames: bool = False, **options: Any
) -> av.container.InputContainer:
    """Opens a file of video, or of sound, for reading.

    Args:
      path: a relative name with a colon is a file, too, and no protocol.
      all_frames: also those that an MP4 file's edit list says not to show.
      options: of `av.open`.

    Raises:
      av.error.FFmpegError, OSError: it cannot be opened, or is in none of the known formats.
    """
    known = {"protocol_whitelist": "file", "format_whitelist": f"{_VIDEO},{_SOUND}"}
    if all_frames:
        known["ignore_editlist"] = "1"
    return av.open(os.path.abspath(path), container_options=known, **_TITLES, **options)


def demuxed(
    container: av.container.InputContainer, *streams: av.stream.Stream
) -> Iterator[av.Packet]:
    """The packets of a file, or of some of its streams, from where it stands to its end."""
    with contextlib.suppress(IndexError):  # of PyAV, at the end of files where streams began late
        yield from container.demux(*streams)


@contextlib.contextmanager
def open_output(path: str | os.PathLike[str], form: str) -> Iterator[av.container.OutputContainer]:
    """Creates a file of a format, by FFmpeg's name, which is closed when the block ends.

    FFmpeg would keep its own file open for good where it could not be written to its end: the room
    that it takes on a full disk would not come free before this process ends.
    """
    with open(path, "wb") as file, av.open(file, "w", format=form) as container:
        yield container
