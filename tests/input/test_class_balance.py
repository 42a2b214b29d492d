"""Class-balanced sampling: what is counted, how likely a clip becomes, and what is drawn."""

import numpy as np
import pytest
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory_dataset import RULES, Memory, assert_same, batches_of
from tests.tiny import SMALLEST, tiny_config
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.errors import DataError
from v2v_jax.input import class_balance
from v2v_jax.input.class_balance import class_counts, clip_probabilities
from v2v_jax.input.clips import ClipSampler, clip_table
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.setup import make_sampler

FIELDS = ("video", "labels")
LENGTHS = (6, 2, 5, 9)  # clips of 3 frames: 4, 0, 3 and 7


class Streets(Memory):
    """Everywhere class 0; class 1 in a corner of video 2; class 2 nowhere; some is unknown."""

    label_names = ("road", "tram", "boat")

    def __init__(self, **options):
        super().__init__(LENGTHS, **options)
        for arrays in self.arrays:
            arrays["labels"][:] = 0
        self.arrays[2]["labels"][1:4, :2, :3] = 1
        self.arrays[3]["labels"][:, 5] = IGNORE_LABEL
        self.reads, self.version = 0, 1

    def read(self, video, start, stop, fields=("video",)):
        self.reads += 1
        return super().read(video, start, stop, fields)

    def identity(self):
        return {"version": self.version}


def probabilities(dataset, balance, stride=1):
    table = clip_table([v.num_frames for v in dataset.videos], RULES.clip_length, stride)
    counts = class_counts(dataset, FIELDS)
    return clip_probabilities(counts, *table, RULES.clip_length, balance), table


def test_voxels_are_counted_frame_by_frame():
    counts = class_counts(Streets(), FIELDS)
    assert [c.shape for c in counts] == [(n, 3) for n in LENGTHS]
    np.testing.assert_array_equal(counts[0], [[48, 0, 0]] * 6)
    np.testing.assert_array_equal(counts[2][:, 1], [0, 6, 6, 6, 0])
    np.testing.assert_array_equal(counts[3], [[40, 0, 0]] * 9)  # a row of eight is not known


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5).filter(lambda n: max(n) >= 3),
    st.integers(1, 4),
    st.floats(0, 1),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_probabilities_are_those_of_the_definition(lengths, classes, balance, stride, seed):
    rng = np.random.default_rng(seed)
    counts = [rng.integers(0, 3, (n, classes)) * rng.integers(0, 2, classes) for n in lengths]
    videos, starts = clip_table(lengths, 3, stride)
    held = [[counts[v][s : s + 3, k].sum() for k in range(classes)] for v, s in zip(videos, starts)]
    totals = [sum(row[k] for row in held) for k in range(classes)]
    present = [k for k in range(classes) if totals[k]]
    if not present:
        with pytest.raises(DataError, match="No training clip has a known label"):
            clip_probabilities(counts, videos, starts, 3, balance)
        return
    expected = [
        (1 - balance) / len(held)
        + balance * sum(row[k] / totals[k] for k in present) / len(present)
        for row in held
    ]
    found = clip_probabilities(counts, videos, starts, 3, balance)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.sum() == pytest.approx(1)


def test_a_rare_class_gets_half_of_the_clips_and_the_shares_are_kept():
    """Three clips of 14 hold the tram; balanced, half of the draws are for it."""
    dataset = Streets()
    uniform, (videos, _) = probabilities(dataset, 0.0)
    np.testing.assert_allclose(uniform, 1 / 14)
    balanced, _ = probabilities(dataset, 1.0)
    assert uniform[videos == 2].sum() == pytest.approx(3 / 14)
    tram = np.array([0] * 4 + [12, 18, 12] + [0] * 7)
    road = np.where(videos == 3, 120, 144) - tram
    expected = 0.5 * road / road.sum()
    expected += 0.5 * tram / 42
    np.testing.assert_allclose(balanced, expected)
    assert balanced[videos == 2].sum() > 0.59
    half, _ = probabilities(dataset, 0.5)
    np.testing.assert_allclose(half, (uniform + balanced) / 2)


def sampler(chances, seed=3, batch_size=8):
    return ClipSampler(
        LENGTHS, RULES, batch_size=batch_size, stride=1, seed=seed, probabilities=chances
    )


def test_clips_are_drawn_as_often_as_is_said():
    chances, (videos, starts) = probabilities(Streets(), 0.7)
    plans = sampler(chances, batch_size=50_000)
    for step in (0, 1, 10**9):
        plan = plans.plan(step)
        found = np.zeros(len(videos))
        for clip, (video, start) in enumerate(zip(videos, starts)):
            found[clip] = ((plan.video == video) & (plan.start == start)).mean()
        # Five standard deviations of a share of 50,000 draws.
        assert (abs(found - chances) < 5 * np.sqrt(chances / 50_000)).all()


def test_what_has_no_chance_is_never_drawn():
    for chances in ([0, 0.5, 0, 0.5] + [0] * 10, [0] * 13 + [1], [1] + [0] * 13):
        plan = sampler(np.array(chances, float), batch_size=20_000).plan(0)
        videos, starts = clip_table(LENGTHS, 3, 1)
        drawn = {(v, s) for v, s in zip(plan.video.tolist(), plan.start.tolist())}
        assert drawn == {(videos[i], starts[i]) for i in np.flatnonzero(chances)}


def test_a_plan_depends_on_seed_and_step_alone():
    chances, _ = probabilities(Streets(), 0.5)
    used = sampler(chances)
    for step in (7, 0, 7, 3):
        assert_same([vars(used.plan(step))], [vars(sampler(chances).plan(step))])
    assert used.plan(0).video.tolist() != sampler(chances, seed=4).plan(0).video.tolist()
    # Another value here means that no earlier run can be resumed: change the code back.
    plan = used.plan(7)
    assert list(zip(plan.video.tolist(), plan.start.tolist())) == FROZEN
    # Crops and mirrors are those of the same step without balance.
    plain = ClipSampler(LENGTHS, RULES, batch_size=8, stride=1, seed=3).plan(7)
    for name in ("top", "left", "mirror", "mask"):
        np.testing.assert_array_equal(getattr(plan, name), getattr(plain, name))


FROZEN = [(2, 1), (2, 1), (0, 3), (0, 1), (3, 4), (3, 2), (3, 2), (2, 0)]


def test_a_probability_for_each_clip():
    with pytest.raises(ValueError, match="Expected 14 probabilities, one for each clip"):
        sampler(np.ones(3) / 3)


def test_while_the_training_set_grows_its_first_videos_are_balanced():
    """The k-th of 16 stages has the first k/4 of four videos; then come all, as without growth."""
    chances, (videos, starts) = probabilities(Streets(), 0.7)
    options = dict(batch_size=50_000, stride=1, seed=3, probabilities=chances)
    plans = ClipSampler(LENGTHS, RULES, **options, grow_steps=16)
    for step, seen in ((0, 1), (3, 1), (4, 2), (11, 3), (12, 4), (15, 4)):
        plan = plans.plan(step)
        there = np.where(videos < seen, chances, 0)
        found = np.zeros(len(videos))
        for clip, (video, start) in enumerate(zip(videos, starts)):
            found[clip] = ((plan.video == video) & (plan.start == start)).mean()
        expected = there / there.sum()
        assert (abs(found - expected) <= 5 * np.sqrt(expected / 50_000)).all()
    assert_same([vars(plans.plan(16))], [vars(ClipSampler(LENGTHS, RULES, **options).plan(16))])
    # Where the first videos have no labels their clips are drawn evenly.
    nothing = np.where(videos == 3, 1.0, 0.0) / (videos == 3).sum()
    options["probabilities"] = nothing
    plan = ClipSampler(LENGTHS, RULES, **options, grow_steps=16).plan(0)
    assert set(plan.video.tolist()) == {0}
    assert set(plan.start.tolist()) == set(starts[videos == 0].tolist())


def test_both_feeds_deliver_the_clips_that_were_drawn():
    dataset = Streets()
    plans = [sampler(probabilities(dataset, 1.0)[0]).plan(step) for step in range(3)]
    device, _ = batches_of("device", dataset, plans, FIELDS)
    streamed, _ = batches_of("tf_data", dataset, plans, FIELDS)
    assert_same(streamed, device)
    trams = np.mean([(batch["labels"] == 1).any((1, 2, 3)).mean() for batch in device])
    assert trams > 0.2  # of crops of 4×5 from frames of 6×8, whose corner holds it


# ------------------------------------------------------------------------------------------------
# What is kept


def test_labels_are_counted_once(tmp_path):
    dataset = Streets()
    first = class_counts(dataset, FIELDS, tmp_path / "run")
    reads = dataset.reads
    again = class_counts(dataset, FIELDS, tmp_path / "run")
    assert dataset.reads == reads == len(LENGTHS)
    assert [c.tolist() for c in again] == [c.tolist() for c in first]
    dataset.version = 2  # other labels
    dataset.arrays[0]["labels"][:] = 2
    changed = class_counts(dataset, FIELDS, tmp_path / "run")
    assert changed[0][:, 2].tolist() == [48] * 6
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_counts_that_cannot_be_read_or_written_are_counted_anew(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    expected = class_counts(Streets(), FIELDS, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    again = class_counts(Streets(), FIELDS, tmp_path)
    assert [c.tolist() for c in again] == [c.tolist() for c in expected]
    assert len(said) == 1 and "the labels are counted again" in said[0]
    (tmp_path / "file").write_text("")
    class_counts(Streets(), FIELDS, tmp_path / "file")  # a run's folder cannot be made there
    assert "cannot be written" in said[-1]
    monkeypatch.setattr(Streets, "identity", Memory.identity)  # does not know what it depends on
    class_counts(Streets(), FIELDS, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_video_that_cannot_be_read_has_no_classes():
    counts = class_counts(Streets(corrupt=[2]), FIELDS)
    assert not counts[2].any() and counts[0].all(0)[0]
    with pytest.raises(DataError, match="mask of another size"):
        class_counts(Streets(wrong=[1]), FIELDS)


def test_classes_of_whole_videos_are_balanced_too():
    dataset = Streets()
    dataset.video_label_names = ("walk", "run")
    dataset.video_label = lambda video: int(video == 2)
    counts = class_counts(dataset, ("video", "video_label"))
    table = clip_table(LENGTHS, 3, 1)
    chances = clip_probabilities(counts, *table, 3, 1.0)
    np.testing.assert_allclose(chances[table[0] == 2], 0.5 / 3)
    np.testing.assert_allclose(chances[table[0] != 2], 0.5 / 11)


def test_a_configuration_with_it(tmp_path, monkeypatch):
    """Of rendered scenes: the run's sampler draws by their labels, which the run keeps counted."""
    config = tiny_config("seg", SMALLEST, class_balance=1.0, grow_steps=3)
    experiment = make_experiment(config, "train")
    plans = make_sampler(experiment, tmp_path)
    counts = class_counts(experiment.dataset, FIELDS, tmp_path)
    table = clip_table([len(c) for c in counts], 8, 1)
    chances = clip_probabilities(counts, *table, 8, 1.0)
    assert chances.max() > 1.4 * chances.min()
    clips = list(zip(*(values.tolist() for values in table)))
    assert set(plans.plan(0).video.tolist()) == {0}  # a quarter of the videos is enough to begin
    drawn = [plans.plan(step) for step in range(3, 5003)]
    drawn = [clip for p in drawn for clip in zip(p.video.tolist(), p.start.tolist())]
    found = np.array([drawn.count(clip) for clip in clips]) / len(drawn)
    assert (abs(found - chances) < 5 * np.sqrt(chances / len(drawn))).all()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    monkeypatch.setattr(class_balance, "_count", None)  # not called again
    make_sampler(experiment, tmp_path)
