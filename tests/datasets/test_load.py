"""`load` by name: what a configuration says reaches the readers."""

import pytest

from v2v_jax import datasets
from v2v_jax.datasets.gatech import tfds_reader as gatech_tfds
from v2v_jax.datasets.scenes import tfds_reader as scenes_tfds

# (dataset, source) → the module and the name of its reader.
READERS = {
    ("ucf101", "files"): (datasets, "Ucf101"),
    ("ucf101", "tfds"): (datasets, "TfdsUcf101"),
    ("davis", "files"): (datasets, "Davis"),
    ("davis", "tfds"): (datasets, "TfdsDavis"),
    ("gatech", "files"): (datasets, "Gatech"),
    ("gatech", "tfds"): (gatech_tfds, "GatechTfds"),
    ("scenes", "tfds"): (scenes_tfds, "ScenesTfds"),
    ("frames", None): (datasets, "FrameFolder"),
    ("sintel", None): (datasets, "Sintel"),
    ("movi", None): (datasets, "Movi"),
    ("folder", None): (datasets, "VideoFolder"),
}


def test_every_dataset_is_listed():
    # Without those that others register, such as an experiment.
    ours = {n: e for n, e in datasets.DATASETS.items() if e.open.__module__.startswith("v2v_jax.")}
    assert {name for name, _ in READERS} == set(ours)
    for name, entry in ours.items():
        sources = {source for other, source in READERS if other == name}
        assert ("tfds" in sources) == ("source" in entry.options), name


@pytest.mark.parametrize(("name", "source"), READERS)
@pytest.mark.parametrize("min_frames", [8, 32])
def test_the_length_of_a_clip_reaches_every_reader(name, source, min_frames, monkeypatch):
    """Clips of eight frames were refused videos of ten, which are shorter than sixteen."""
    seen = {}

    def reader(*_, **options):
        seen.update(options)

    monkeypatch.setattr(*READERS[name, source], reader)
    data = {"name": name, **datasets.DATASETS[name].options, "root": "nowhere"}
    data |= {"source": source} if source else {}
    datasets.load(data, "test", (8, 12), min_frames=min_frames)
    assert (seen["min_frames"], seen["frame_size"]) == (min_frames, (8, 12))
