"""Teachers to label with, and videos whose flow is known."""

import os
import pathlib
import signal
import time

import numpy as np

SIZE = (16, 24)  # of the videos
MINE = "tests.teachers:content_flow"


def content_flow(first, second):
    """A flow that tells which two frames it is of, in steps that labels hold exactly."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    return np.stack([first[..., 0] / 4 - second[..., 1] / 8, second[..., 2] / 16], axis=-1)


def noisy_flow(first, second):
    """Flow that compresses badly."""
    return np.random.default_rng(0).normal(0, 9, (*first.shape[:2], 2))


def slow_flow(first, second):
    time.sleep(0.02)
    return content_flow(first, second)


def deadly_flow(first, second):
    """Kills its process, once, at the second video's seventh pair."""
    state = pathlib.Path(os.environ["DEADLY_FLOW"])
    calls = len(state.read_bytes()) if state.exists() else 0
    state.write_bytes(bytes(calls + 1))
    if calls == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return content_flow(first, second)


def huge_flow(first, second):
    """Longer than what the finer step holds, where the picture is bright."""
    return np.where(first.mean() > 128, 1500.0, 700.3) * np.ones((*SIZE, 2), np.float32)


def wrong_flow(first, second):
    return np.zeros((2, *SIZE), np.float32)


def bright(frame):
    """A class a voxel: 0 dark, 1 bright, 255 where the green channel is full."""
    labels = (frame[..., 0] > 127).astype(np.int64)
    labels[frame[..., 1] == 255] = 255
    return labels


def redness(frame):
    """The probability of the second of two classes, in steps that labels hold exactly."""
    return frame[..., 0].astype(np.float32) / 255


def which_channel(frame):
    """Probabilities of three classes; not known in the first row."""
    values = frame.astype(np.float64) + 1
    values /= values.sum(-1, keepdims=True)
    values[0] = np.nan
    return values


which_channel.label_names = ("red", "green", "blue")


def depth_of_clip(clip):
    """Of a whole clip: its green channel in quarter metres, and how many frames it had."""
    depth = clip[..., 1].astype(np.float32) / 4
    depth[:, 0, 0] = len(clip)
    depth[:, 1, 0], depth[:, 2, 0] = np.nan, np.inf
    return depth


depth_of_clip.sees = "clip"


def clip_flow(clip):
    """`content_flow` of a clip; nonsense for its last frame."""
    following = np.concatenate([clip[1:], np.zeros_like(clip[:1])])
    return np.stack([content_flow(*pair) for pair in zip(clip, following)])


clip_flow.sees = "clip"


def changed(first, second):
    """From two frames a class: whether the red channel grew."""
    return second[..., 0] > first[..., 0]


def third_class(frame):
    return np.full(frame.shape[:2], 2)


def nothing_known(frame):
    return np.full(frame.shape[:2], np.nan)


def no_flow_known(first, second):
    return np.full((*first.shape[:2], 2), np.nan)


def moving_squares(count=6, size=(32, 48)):
    """A textured picture that moves 2 px right and 1 px down a frame."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(40, 215, (20, 24, 3)), np.ones((4, 4, 1)))
    h, w = size
    cut = lambda t: picture[20 - t : 20 - t + h, 24 - 2 * t : 24 - 2 * t + w]
    return np.stack([cut(t) for t in range(count)]).astype(np.uint8)
