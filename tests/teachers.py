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


def moving_squares(count=6, size=(32, 48)):
    """A textured picture that moves 2 px right and 1 px down a frame."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(40, 215, (20, 24, 3)), np.ones((4, 4, 1)))
    h, w = size
    cut = lambda t: picture[20 - t : 20 - t + h, 24 - 2 * t : 24 - 2 * t + w]
    return np.stack([cut(t) for t in range(count)]).astype(np.uint8)
