"""The search: its plans, its optimiser, the scenes that its processes share."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from experiments import prerendered, search_worker
from experiments.search_plans import DATA, PLANS, Group, Run, runs
from v2v_jax.datasets.base.video_dataset import VIDEO_LABEL
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.run import recipes
from v2v_jax.run.optimizers import make_optimizer


@pytest.mark.parametrize("plan", PLANS)
def test_every_group_of_a_plan_can_be_configured(plan):
    groups = PLANS[plan]
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        config = search_worker.group_config(group)
        recipes.validate(config)
        assert group.data in DATA and group.runs
        assert {*group.init_from, *group.loss_of} <= {g.name for g in groups if g.save}
        assert DATA[group.data].frames >= config.preprocessing.clip_length


def test_its_optimiser_is_the_configurations_with_the_rate_as_data():
    group = Group("flow", "flow", "tiny", runs(20, 0.1))
    config = search_worker.group_config(group)
    config.num_steps = 20
    config.optimizer.update(learning_rate=0.1, warmup_share=0.1)
    rng = np.random.default_rng(0)
    layer = lambda *shape: {"kernel": np.float32(rng.standard_normal(shape)), "bias": np.zeros(2)}
    params = {"conv1a": layer(3, 3, 3, 2, 2), "deconv3": layer(4, 8, 8, 2, 2)}
    ours, theirs = search_worker.searched(config, group), make_optimizer(config.optimizer, 20)
    states = [ours.init(params), theirs.init(params)]
    states[0] = states[0]._replace(rate=np.float32(0.1), steps=np.float32(20))
    found = [params, params]
    for _ in range(20):
        gradient = jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), params)
        for which, optimizer in enumerate((ours, theirs)):
            updates, states[which] = optimizer.update(gradient, states[which], found[which])
            found[which] = optax.apply_updates(found[which], updates)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, *found)


def test_a_group_like_others_takes_the_best_of_them(tmp_path):
    """Settings, start, rate and steps of the best run; its own settings come last."""
    worker = search_worker.Worker(tmp_path, tmp_path, np.inf)
    crop, other = ("preprocessing.crop_size", (32, 64)), ("batch_size", 2)
    first = Group("first", "seg", "tiny", runs(5, 1e-3, 2e-3), set=(crop,), init_from=("c3d",))
    second = Group("second", "seg", "tiny", runs(7, 4e-3), set=(("batch_size", 8),))
    for group, chosen_by in ((first, (0.5, 0.9)), (second, (0.7,))):
        for run, value in zip(group.runs, chosen_by):
            worker.write(group, run, {"chosen_by": value})
    like = Group("third", "seg", "tiny", (Run(0, 0, 3), Run(1e-4, 9)), set=(other,))
    like = dataclasses.replace(like, like=("first", "second"))
    found = worker.resolved(like)
    assert found.runs == (Run(2e-3, 5, 3), Run(1e-4, 9))
    assert found.set == (crop, other) and found.init_from == ("c3d",)
    assert not worker.ready(like)  # the others have not ended
    assert worker.resolved(first) == first


def test_shared_scenes_are_the_datasets(tmp_path):
    scenes = Scenes("train", num_videos=3, num_frames=4, frame_size=(24, 32))
    fields = ("video", "labels", "flow", VIDEO_LABEL)
    shared = prerendered.render(scenes, tmp_path / "scenes", fields, workers=1)
    assert shared.videos == scenes.videos and shared.label_names == scenes.label_names
    shared.check_fields(fields)
    for video in range(3):
        expected = scenes.read(video, 1, 4, fields[:3])
        found = shared.read(video, 1, 4, fields[:3])
        for field in fields[:3]:
            wanted = expected[field].astype(found[field].dtype)
            np.testing.assert_array_equal(found[field], wanted)
        assert shared.video_label(video) == scenes.video_label(video)
    again = prerendered.render(scenes, tmp_path / "scenes", fields, workers=1)
    np.testing.assert_array_equal(again.read(2, 0, 4)["video"], shared.read(2, 0, 4)["video"])
