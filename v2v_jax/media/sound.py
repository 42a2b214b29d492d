"""The sound of one file beside the pictures of another."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from absl import logging

from v2v_jax.media.clock import Clock
from v2v_jax.media.containers import demuxed, open_input

# Sound that MP4 files hold and players know, by FFmpeg's names of the formats, not of decoders.
_COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
_GAP = 0.1  # seconds of missing sound that become silence where sound is encoded anew
_SILENCE = 1024  # samples at a time
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Sound:
    """Copies one file's sound into another, no further than its pictures have come.

    Sound must never stop a video: what is missing of it is said in one warning.
    """

    def __init__(self, path: str | os.PathLike[str], target: av.container.OutputContainer) -> None:
        self._path = os.fspath(path)
        self._packets: Iterator[av.Packet] | None = None
        self._source: av.container.InputContainer | None = None
        self._target = target
        self._next: av.Packet | None = None
        try:
            self._source = open_input(self._path)
            source = self._source.streams.best("audio")
            if source is None:
                return
            if source.codec_context is None:
                raise ValueError("FFmpeg has no decoder for it")
            self._begin = _begin(self._source)
            if _is_held(source):
                self._stream = target.add_stream_from_template(source)
                self._packets = self._copied(source)
            else:
                self._stream = target.add_stream("aac", rate=_aac_rate(source.rate))
                self._packets = self._encoded(source)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._give_up("is left out", error)

    def begin_at(self, seconds: Fraction) -> None:
        """Says which time of the source is the video's beginning, before anything is copied."""
        self._begin = seconds

    def _copied(self, source: av.AudioStream) -> Iterator[av.Packet]:
        clock = Clock(source.time_base, Fraction(1024, source.rate))
        for packet in demuxed(self._source, source):
            if not packet.size:
                continue
            begins = clock(packet.pts, packet.duration).begin - self._begin
            if begins < 0:
                continue
            packet.pts = packet.dts = round(begins / source.time_base)
            packet.stream = self._stream
            yield packet

    def _encoded(self, source: av.AudioStream) -> Iterator[av.Packet]:
        encoder = self._stream.codec_context
        resampler = av.AudioResampler(encoder.format, encoder.layout, encoder.sample_rate)
        clock = Clock(source.time_base, Fraction(0))
        samples = None  # until now, from the video's beginning on
        packets = demuxed(self._source, source)
        for decoded in itertools.chain.from_iterable(packet.decode() for packet in packets):
            begins = clock(decoded.pts, decoded.duration).begin - self._begin
            due = round(begins * encoder.sample_rate)
            if samples is None:
                samples = due
            elif due - samples > encoder.sample_rate * _GAP:  # what the resampler holds is less
                for silence in _silence(encoder, due - samples):
                    yield from self._encode(silence, samples)
                    samples += silence.samples
            for frame in resampler.resample(decoded):
                yield from self._encode(frame, samples)
                samples += frame.samples
        for frame in resampler.resample(None) if samples is not None else ():
            yield from self._encode(frame, samples)
            samples += frame.samples
        yield from self._stream.encode(None)

    def _encode(self, frame: av.AudioFrame, samples: int) -> Iterator[av.Packet]:
        """Encodes a frame that begins there, unless that is before the pictures."""
        if samples >= 0:
            frame.pts, frame.time_base = samples, Fraction(1, frame.sample_rate)
            yield from self._stream.encode(frame)

    def _give_up(self, what: str, error: Exception) -> None:
        self._packets = None
        reason = getattr(error, "strerror", None) or str(error)
        logging.warning("The sound of %s %s (%s).", self._path, what, reason)

    def copy_until(self, seconds: Fraction) -> None:
        """Copies the packets that begin before that time; damage ends the sound."""
        if self._packets is None:
            return
        while True:
            if self._next is None:
                try:
                    self._next = next(self._packets, None)
                except (av.error.FFmpegError, ValueError) as error:
                    self._give_up(f"ends before {float(seconds):.2f} s", error)
                    return
            if self._next is None:
                self._packets = None
                return
            begins = self._next.pts
            if begins is not None and begins * self._next.time_base >= seconds:
                return
            try:
                self._target.mux(self._next)
            except ValueError as error:  # the container's refusal; a full disk is another error
                self._give_up(f"ends before {float(seconds):.2f} s", error)
                return
            self._next = None

    def close(self) -> None:
        """Closes the source."""
        if self._source is not None:
            self._source.close()


def _silence(encoder: av.AudioCodecContext, samples: int) -> Iterator[av.AudioFrame]:
    """Frames of silence as an encoder takes them."""
    channels, planar = len(encoder.layout.channels), encoder.format.is_planar
    while samples > 0:
        count = min(samples, _SILENCE)
        shape = (channels, count) if planar else (1, channels * count)
        frame = av.AudioFrame.from_ndarray(
            np.zeros(shape, np.float32), format=encoder.format.name, layout=encoder.layout.name
        )
        frame.sample_rate = encoder.sample_rate
        yield frame
        samples -= count


def _begin(source: av.container.InputContainer) -> Fraction:
    """The time, in seconds, of the first picture, or of whatever is first; it becomes 0.

    Streams of broadcasts begin at any time, and sound may begin before or after the pictures.
    """
    pictures = source.streams.best("video")
    if pictures is not None and pictures.start_time is not None:
        return pictures.start_time * pictures.time_base
    return Fraction(source.start_time or 0, av.time_base)


def _is_held(source: av.AudioStream) -> bool:
    """Whether MP4 files hold this sound as it is, in a way that players know."""
    if source.codec_context.codec.canonical_name not in _COPIED_CODECS:
        return False
    try:  # on a file in memory, as a refusal would spoil the true one
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            trial.add_stream_from_template(source)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _aac_rate(rate: int) -> int:
    """The rate of AAC that loses least: the next higher one, of higher ones than all 48 kHz."""
    return min((known for known in _AAC_RATES if known >= rate), default=48000)
