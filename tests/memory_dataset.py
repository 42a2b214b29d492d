"""Random videos in memory, and what feeds make of them: for the tests of feeds and of caches."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from absl import logging

from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset, VideoInfo
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.input.clips import ClipSampler
from v2v_jax.input.feeds import make_feed
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.system import sharding

RULES = Preprocessing(frame_size=(6, 8), crop_size=(4, 5), clip_length=3)
LENGTHS = (7, 2, 9, 4, 3)  # the second is too short for a clip
KINDS = ("device", "tf_data")
both = pytest.mark.parametrize("kind", KINDS)


class Memory(VideoDataset):
    """Random videos in memory; `corrupt` ones cannot be read, `wrong` ones raise DataError."""

    name = "memory"
    label_names = tuple(f"class{k}" for k in range(200))

    def __init__(self, lengths=LENGTHS, *, corrupt=(), wrong=(), fields=tuple(FIELDS)):
        rng = np.random.default_rng(0)
        self.frame_size, self.fields = RULES.frame_size, fields
        self._corrupt, self._wrong = set(corrupt), set(wrong)
        self.videos = [VideoInfo(f"clip{i}.avi", n) for i, n in enumerate(lengths)]
        self.arrays = [self._random(rng, n) for n in lengths]

    def _random(self, rng, length):
        arrays = {}
        for name, spec in FIELDS.items():
            shape = (length, *self.frame_size, *self.channels(name))
            values = rng.normal(0, 30, shape)
            arrays[name] = (values > 0 if spec.dtype == bool else abs(values)).astype(spec.dtype)
        arrays["flow"][..., 0] *= np.where(rng.random((length, *self.frame_size)) < 0.5, -1, 1)
        arrays["depth"][arrays["depth"] > 40] = np.inf
        return arrays

    def read(self, video, start, stop, fields=("video",)):
        name, length = self.videos[video].name, self.videos[video].num_frames
        if video in self._corrupt:
            raise CorruptVideoError(f"{name} cannot be decoded: bad header.")
        if video in self._wrong:
            raise DataError(f"{name} has a mask of another size.")
        if not 0 <= start < stop <= length:
            raise DataError(f"{name} has no frames {start}..{stop - 1}.")
        return {field: self.arrays[video][field][start:stop] for field in fields}


def plans_for(dataset, steps=range(6), batch_size=4, rules=RULES):
    sampler = ClipSampler(
        [video.num_frames for video in dataset.videos],
        rules,
        batch_size=batch_size,
        stride=1,
        seed=5,
    )
    return [sampler.plan(step) for step in steps]


def batches_of(kind, dataset, plans, fields=tuple(FIELDS), rules=RULES, mesh=None, **options):
    """What the jitted step sees of each plan, and the feed."""
    feed = make_feed(kind, dataset, fields, rules, mesh or sharding.make_mesh(), **options)
    prepare = jax.jit(feed.prepare)
    return [jax.tree.map(np.asarray, prepare(feed.store, b)) for b in feed.batches(plans)], feed


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for name in b:
            assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
            assert a[name].tobytes() == b[name].tobytes(), name


def warnings_of(monkeypatch):
    """A list that gets every warning from now on."""
    texts = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: texts.append(text % args))
    return texts
