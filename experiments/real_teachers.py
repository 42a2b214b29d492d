"""What teachers say of the real videos that `experiments.real_data` unpacked.

ESPNetv2 and the teacher of people name objects, Brox's method motion: files of labels beside the
frames, in the same order. For an accelerator; `python -m experiments.real_data --teachers`.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.real_data import FLOW_FRAMES, FRAME_SIZE, LABEL_EVERY, TEACHERS_SEE, sure
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL


def ask_espnet(packed: pathlib.Path, output: pathlib.Path, batch: int = 64) -> None:
    """moving.npy and others.npy: probabilities 0..255 of the frames that are labelled.

    `moving` is of what moves by itself or is ridden, persons among it; `others` of all objects that
    are no persons.
    """
    import jax
    import jax.numpy as jnp

    from experiments import espnetv2

    state = dict(np.load(packed / "espnetv2.npz"))
    moving = np.array([espnetv2.VOC.index(name) for name in espnetv2.MOVING])

    @jax.jit
    def probabilities(frames: jax.Array) -> jax.Array:
        found = espnetv2.espnetv2(state, frames)
        others = 1 - found[..., 0] - found[..., espnetv2.PERSON]
        two = jnp.stack([found[..., moving].sum(-1), others])
        two = jax.image.resize(two, (2, len(frames), *FRAME_SIZE), "linear")
        return jnp.round(255 * jnp.clip(two, 0, 1)).astype(jnp.uint8)

    for source in TEACHERS_SEE:
        large = np.load(output / source / "large.npy", mmap_mode="r")
        parts = []
        for start in range(0, len(large), batch):
            frames = np.array(large[start : start + batch])
            count = len(frames)
            frames = np.pad(frames, ((0, batch - count), (0, 0), (0, 0), (0, 0)))
            parts.append(probabilities(frames)[:, :count])
        found = np.concatenate([np.asarray(part) for part in parts], 1)
        for name, values in zip(("moving", "others"), found):
            np.save(output / source / f"{name}.npy", values)


def label_objects(output: pathlib.Path) -> None:
    """objects.npy and persons.npy of the training videos, from what both teachers say.

    An object is what either sees. A person is what the teacher of people takes for one and ESPNetv2
    for no other object: alone, that teacher takes most things in the middle for a person.
    """
    for source in ("clips_train", "davis_train"):
        folder = output / source
        files = [folder / f"{name}.npy" for name in ("people", "moving", "others")]
        people, moving, others = (np.load(path, mmap_mode="r") for path in files)
        objects, persons = (np.full(people.shape, IGNORE_LABEL, np.uint8) for _ in range(2))
        first = begin = 0
        for _, count in json.loads((folder / "index.json").read_text()):
            place = slice(first, first + count, LABEL_EVERY)
            number = len(people[place])
            seen = slice(begin, begin + number)
            some, other = sure(moving[seen]), sure(others[seen])
            some[people[place] == 1] = 1
            one = np.where(other == 1, 0, people[place])
            one[(other == IGNORE_LABEL) & (one == 1)] = IGNORE_LABEL
            objects[place], persons[place] = some, one
            first, begin = first + count, begin + number
        np.save(folder / "objects.npy", objects)
        np.save(folder / "persons.npy", persons)


def _pairs(folder: pathlib.Path, frames: int) -> list[int]:
    """The first frame, in the source's arrays, of every pair of neighbours of its videos."""
    pairs, first = [], 0
    for _, count in json.loads((folder / "index.json").read_text()):
        pairs += range(first, first + min(count, frames) - 1)
        first += count
    return pairs


def _brox(
    video: np.ndarray, pairs: Sequence[int], batch: int = 32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first frames, flow (n,H,W,2)) of all pairs, by Brox's method, accurate."""
    import jax.numpy as jnp

    from v2v_jax.brox import brox_flow

    solve = functools.partial(brox_flow.brox_flow, **brox_flow.ACCURATE)
    results = []
    for start in range(0, len(pairs), batch):
        some = np.array(pairs[start : start + batch])
        padded = np.concatenate([some, np.repeat(some[-1:], batch - len(some))])
        grey = [brox_flow.grey_of_rgb(np.array(video[padded + k])) for k in (0, 1)]
        results.append((some, jnp.asarray(solve(*grey), jnp.float16)))
    for some, found in results:
        yield some, np.asarray(found)[: len(some)]


def label_flow(output: pathlib.Path, source: str) -> None:
    """flow.npy and flow_valid.npy: Brox's of the first `FLOW_FRAMES` of each video."""
    folder = output / source
    video = np.load(folder / "video.npy", mmap_mode="r")
    flow = np.zeros((*video.shape[:3], 2), np.float16)
    valid = np.zeros(video.shape[:3], bool)
    for some, found in _brox(video, _pairs(folder, FLOW_FRAMES)):
        flow[some], valid[some] = found, True
    np.save(folder / "flow_valid.npy", valid)
    np.save(folder / "flow.npy", flow)


def motion_of_objects(output: pathlib.Path, source: str) -> None:
    """motion.npy (N,H/2,W/2) uint8: sixteenths of a pixel that differ from the median motion."""
    folder = output / source
    video = np.load(folder / "video.npy", mmap_mode="r")
    speed = np.zeros((len(video), (video.shape[1] + 1) // 2, (video.shape[2] + 1) // 2), np.uint8)
    for some, found in _brox(video, _pairs(folder, 10**9)):
        flow = found.astype(np.float32)
        rest = np.linalg.norm(flow - np.median(flow, (1, 2), keepdims=True), axis=-1)
        speed[some] = np.clip(16 * rest[:, ::2, ::2], 0, 255)
    np.save(folder / "motion.npy", speed)
