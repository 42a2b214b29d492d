"""What a video file's packets tell before decoding: which frames, when, and if all are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import av
import numpy as np

from v2v_jax.errors import CorruptVideoError
from v2v_jax.media.containers import demuxed, open_input

# Codecs that show exactly one frame per packet (VP8, for one, has packets that show nothing).
_FRAME_PER_PACKET = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "mpeg2video", "vp9", "av1"})
# MPEG-4 part 2 packets up to this size may be "not coded" VOPs, which the decoder drops.
_NOT_CODED_BYTES = 16
_MAX_FRAMES = 1 << 22  # that a hostile file may claim: 46 hours at 25 frames a second
# Seconds that a Matroska file may end before the duration in its header.
_DURATION_TOLERANCE = 0.1


class Packet(NamedTuple):
    """What an index needs of a packet; av.Packet itself would keep its data in memory."""

    pts: int | None
    dts: int | None
    duration: int | None
    size: int
    is_keyframe: bool
    is_corrupt: bool
    is_discard: bool


def scan_packets(
    path: str, container: av.container.InputContainer, stream: av.VideoStream
) -> list[Packet]:
    """Reads all of the stream's packets.

    Matroska headers give no number of frames but a duration: it is compared with the end of the
    last packet of any stream, as the sound may be longer than the pictures.
    """
    packets = []
    end = 0.0
    for packet in demuxed(container):
        if packet.size == 0:
            continue
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index == stream.index:
            packets.append(Packet(*(getattr(packet, name) for name in Packet._fields)))
        if len(packets) > _MAX_FRAMES:
            raise corrupt(path, f"it holds more than {_MAX_FRAMES} frames", "cut it into parts")
    promised = (container.duration or 0) / av.time_base
    if "matroska" in container.format.name and end < promised - _DURATION_TOLERANCE:
        raise corrupt(path, f"its header promises {promised:.1f} s, it holds {end:.1f} s")
    return packets


def presentation_times(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Sequence[Packet],
) -> np.ndarray | None:
    """Times of all frames shown, ascending (N,) int64, or None if they cannot be trusted."""
    codec = stream.codec_context.name
    if codec not in _FRAME_PER_PACKET or any(packet.pts is None for packet in packets):
        return None
    if codec == "mpeg4" and any(packet.size <= _NOT_CODED_BYTES for packet in packets):
        return None
    # AVI has no presentation times; FFmpeg guesses them, wrongly where there are B-frames.
    if "avi" in container.format.name and any(packet.pts != packet.dts for packet in packets):
        return None
    # Frames before the first keyframe cannot be decoded; an edit list hides frames (discard).
    first = packets[0].pts if packets else 0
    shown = [packet.pts for packet in packets if packet.pts >= first and not packet.is_discard]
    times = np.unique(np.array(shown, np.int64))
    return times if len(times) == len(shown) else None


def seekable_times(codec: str, packets: Sequence[Packet]) -> list[int]:
    """Times of the keyframes from which decoding can begin.

    Frames that follow a keyframe in the file but are shown before it (open groups of pictures) need
    frames before it. They can be skipped, except in H.264, where later frames miss them.
    """
    keys = []
    earliest_later = None
    for packet in reversed(packets):
        leading = earliest_later is not None and earliest_later < packet.pts
        if packet.is_keyframe and not (leading and codec == "h264"):
            keys.append(packet.pts)
        earliest_later = packet.pts if earliest_later is None else min(earliest_later, packet.pts)
    return keys


def check_complete(
    path: str,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Sequence[Packet],
) -> None:
    """Raises CorruptVideoError if the file ends early or has damaged packets."""
    if not packets:
        raise corrupt(path, "it holds no frames")
    if any(packet.is_corrupt for packet in packets):
        raise corrupt(path, "a packet is damaged or the file is truncated")
    # AVI counts dropped frames too, which have no packet but a time; so the count is taken by time.
    # Its unit of time is one frame's, dropped or not.
    last = packets[-1]
    held = len(packets)
    if last.dts is not None and "avi" in container.format.name:
        held = max(held, last.dts + 1)
    if held < stream.frames and "mov" in container.format.name:  # trimmed, perhaps
        held = _count_all(path, stream.index)
    if held < stream.frames:
        raise corrupt(path, f"its header promises {stream.frames} frames, it holds {held}")


def _count_all(path: str, index: int) -> int:
    """The packets of an MP4 file's stream, those too that its edit list leaves out."""
    with open_input(path, all_frames=True) as container:
        return sum(packet.size > 0 for packet in demuxed(container, container.streams[index]))


_INCOMPLETE = "expected a complete video file, so fetch it again or remove it"


def corrupt(path: str, reason: str, remedy: str = _INCOMPLETE) -> CorruptVideoError:
    return CorruptVideoError(f"Video {path} cannot be read: {reason}; {remedy}.")
