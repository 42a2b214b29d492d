"""Real videos in arrays: geometry, labels, which videos make which set, what teachers are asked."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from jax import lax

from experiments import (
    espnetv2,
    half_precision,
    real_color_scale,
    real_data,
    real_plans,
    real_runs,
)
from experiments.real_data import FRAME_SIZE, Part, RealVideos, cover, pack_labels, unpack_labels
from experiments.search_plans import PLANS
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.inference.network import read_network
from v2v_jax.models.standardization import fold
from v2v_jax.pretrained import read_weights
from v2v_jax.run import recipes
from v2v_jax.run.experiment import make_experiment


def write_source(root, source, videos, size=(6, 8), **fields):
    """videos: name → frames; frame t of video k is 10k + t; fields by name, the same with + 1, …"""
    folder = root / source
    folder.mkdir(parents=True)
    numbers = np.concatenate([10 * k + np.arange(n) for k, n in enumerate(videos.values())])
    frames = np.broadcast_to(numbers[:, None, None].astype(np.uint8), (len(numbers), *size))
    np.save(folder / "video.npy", np.repeat(frames[..., None], 3, -1))
    for name, offset in fields.items():
        np.save(folder / f"{name}.npy", frames + np.uint8(offset))
    (folder / "index.json").write_text(json.dumps(list(videos.items())))


def test_parts_of_several_sources(tmp_path):
    write_source(tmp_path, "a", {"x": 20, "short": 9, "y": 30}, people=1, masks=2)
    write_source(tmp_path, "b", {"z": 40}, masks=2)
    parts = [Part("a", "people", without=("x",), frames=25), Part("b", "masks")]
    videos = RealVideos(tmp_path, parts, ("no", "yes"))
    assert [(v.name, v.num_frames) for v in videos.videos] == [("a/y", 25), ("b/z", 40)]
    assert videos.fields == ("video", "labels") and videos.label_names == ("no", "yes")
    found = videos.read(0, 3, 5, ("video", "labels"))
    assert found["video"][:, 0, 0, 0].tolist() == [23, 24]
    assert found["labels"][:, 0, 0].tolist() == [24, 25]
    assert videos.read(1, 0, 1, ("labels",))["labels"].max() == 2


def test_labels_survive_packing():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, IGNORE_LABEL], (3, *FRAME_SIZE)).astype(np.uint8)
    np.testing.assert_array_equal(unpack_labels(pack_labels(labels)), labels)
    assert real_data.sure(np.array([0, 89, 90, 165, 166, 255], np.uint8)).tolist() == [
        *(0, 0, IGNORE_LABEL, IGNORE_LABEL, 1, 1)
    ]


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (180, 180), (180, 432)])
def test_cover_keeps_the_middle_and_the_shape(size):
    """A round disk in the middle stays one, in the middle."""
    y, x = np.mgrid[: size[0], : size[1]]
    middle = (np.array(size) - 1) / 2
    disk = (np.hypot(y - middle[0], x - middle[1]) < 30).astype(np.uint8) * 255
    found = np.argwhere(cover(np.repeat(disk[..., None], 3, -1), FRAME_SIZE)[..., 0] > 127)
    np.testing.assert_allclose(found.mean(0), (np.array(FRAME_SIZE) - 1) / 2, atol=0.6)
    height, width = found.max(0) - found.min(0) + 1
    assert abs(height - width) <= 1
    assert set(np.unique(cover(disk, FRAME_SIZE, nearest=True))) == {0, 255}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A few videos of every source."""
    root = tmp_path_factory.mktemp("real")
    clips = {f"clip{k}": 16 for k in range(19)} | {real_data.TWINS[0]: 16}
    davis = dict.fromkeys((*real_data.VALIDATION, "hike", "drift-turn", "motocross-bumps"), 16)
    labels = dict.fromkeys(("people", "persons", "objects", "masks"), 0)
    write_source(root, "clips_train", clips, **labels, flow=0, flow_valid=0)
    write_source(root, "clips_test", {"other": 16}, **labels, flow=0, flow_valid=0)
    write_source(root, "davis_train", davis, **labels)
    write_source(root, "davis_val", dict.fromkeys(("parkour", "cows"), 16), masks=0)
    camvid = {v: 16 for names in real_data._CAMVID.values() for v in names}
    write_source(root, "camvid", camvid, classes=0)
    (root / "flow done").touch()
    (root / "licensed.json").write_text(json.dumps(["clip1", "clip2", "clip3"]))
    return root


def test_sets_share_no_video(unpacked):
    """What validates or tests does not train, and what ships was trained on free videos alone."""
    for name, chosen in real_data.sets(unpacked).items():
        names = [
            {info.name for info in RealVideos(unpacked, parts).videos}
            for parts in (chosen.train, chosen.validation, chosen.test)
        ]
        assert all(names), name
        assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2]), name
        assert f"clips_train/{real_data.TWINS[0]}" not in names[0]
        if name in ("people", "color shipped", "flow shipped"):
            assert names[0] <= {f"clips_train/clip{k}" for k in (1, 2, 3)} | {"davis_train/hike"}


def test_every_group_can_be_configured(unpacked):
    groups = real_plans.plan()
    scenes = [group.name for group in PLANS["converged"] if group.save]
    names = [*scenes, *(group.name for group in groups)]
    assert len(set(names)) == len(names)
    saved = {*scenes, *(group.name for group in groups if group.save)}
    for place, group in enumerate(groups, len(scenes)):
        assert {*group.init_from, *group.like} <= set(names[:place]), group.name  # no circle
        assert set(group.init_from) <= saved
        if isinstance(group, real_plans.RealGroup):
            config = real_runs.real_config(group, unpacked)
            recipes.validate(config)
            assert config.data.validation.count("/") >= 1
    assert {g.runs[0].steps for g in map(real_plans.tiny, groups)} == {0, 2}


def test_weights_in_half_precision(unpacked, tmp_path):
    """Written, read, and made a run that loads."""
    group = next(g for g in real_plans.plan() if g.name == "davis, Conv3b-up")
    group = dataclasses.replace(group, set=(*group.set, ("model.width", 0.04)), like=())
    experiment = make_experiment(real_runs.real_config(group, unpacked), "train")
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(size=x.shape).astype(np.float16).astype(np.float32)
    params = jax.tree.map(draw, experiment.abstract_params())
    path = tmp_path / "weights" / "some.npz"
    half_precision.write(path, experiment.about, params)
    about, found = half_precision.read(path)
    assert about == experiment.about
    jax.tree.map(np.testing.assert_array_equal, params, found)
    assert half_precision.load(path).label_names == ("background", "foreground")
    half_precision.as_run(path, tmp_path / "run")
    network = read_network(tmp_path / "run")
    folded = fold(params)
    np.testing.assert_allclose(network.params["conv2a"]["kernel"], folded["conv2a"]["kernel"])
    np.testing.assert_array_equal(
        read_weights(tmp_path / "run").params["conv2a"]["gain"], params["conv2a"]["gain"]
    )


def test_colour_is_scaled_by_what_is_best_on_the_validation_videos():
    """Windows that want 0.6 of the colour, two, and 0.2, one; the test split only follows.

    Each window counts once: 0.6 has an error of 0.8 there, 0.2 of 1.6, 0.4 of 1.2. Were each source
    counted once, all three would be as good.
    """
    params = {"conv1a": {"kernel": np.float32(3)}, "conv_pre": {"kernel": np.float32(2)}}

    class Wants:
        def __init__(self, **best):
            self.best = best

        def windows(self, params):
            assert params["conv1a"]["kernel"] == 3
            painted = params["conv_pre"]["kernel"]
            return None, [
                types.SimpleNamespace(
                    name=f"{name[:5]}/a", values={"ade": abs(painted - 2 * best), "baseline_ade": 7}
                )
                for name, best in self.best.items()
            ]

    chosen = Wants(clips=0.6, clips_too=0.6, davis=0.2)
    found = real_runs.scaled([chosen, Wants(clips=0.2)], params)
    assert found["scale"] == 0.6 and set(found["held_out"]) == set(real_runs.SCALES)
    assert found["held_out"][0.4] == pytest.approx(1.2 / 3)
    assert found["held_out"][0.6] == pytest.approx(0.8 / 3)
    at_best = found["held out by source"][0.6]
    assert at_best["clips"]["windows"] == 2 and at_best["davis"]["ade"] == pytest.approx(0.8)
    assert found["by source"]["clips"]["ade"] == pytest.approx(0.8)
    assert real_runs.scaled([chosen], params)["by source"] == {}


@pytest.mark.slow
def test_the_factor_of_weights(tmp_path):
    """A network that adds one colour everywhere, on videos that want 0.6 of that.

    Frames of one colour are grey plus that: at a factor s the error is grey's own by |s / 0.6 - 1|.
    """
    size, color = (32, 40), np.array([200, 100, 60], np.float32)
    for source, names in (
        ("clips_train", [f"clip{k}" for k in range(12)]),
        ("davis_train", ["hike", *real_data.VALIDATION]),
        ("clips_test", ["other"]),
        ("davis_val", ["cows", "parkour"]),
    ):
        write_source(tmp_path, source, dict.fromkeys(names, 17), size)
        frames = np.broadcast_to(color.astype(np.uint8), (17 * len(names), *size, 3))
        np.save(tmp_path / source / "video.npy", frames)
    write_source(tmp_path, "camvid", {"val_0016E5": 16}, size)
    (tmp_path / "licensed.json").write_text('["clip1"]')
    group = next(g for g in real_plans.plan() if g.name == "color shipped")
    small = real_plans.settings(
        preprocessing__crop_size=(32, 32), preprocessing__clip_length=8, batch_size=2
    )
    group = real_plans.tiny(dataclasses.replace(group, set=(*group.set, *small)))
    config = real_runs.real_config(group, tmp_path)
    experiment = make_experiment(config, "train")
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), experiment.abstract_params())
    grey = color @ np.array([0.299, 0.587, 0.114], np.float32)
    params["conv_pre"]["bias"] = (color - grey) / 255 / 0.6
    weights = tmp_path / "color.npz"
    half_precision.write(weights, experiment.about, params)

    found = real_color_scale.measure(tmp_path, weights, test=True)
    own = np.linalg.norm(color - grey) / 255
    assert found["scale"] == 0.6
    for scale, error in found["held_out"].items():
        assert error == pytest.approx(own * abs(scale / 0.6 - 1), abs=1e-3), scale
    counts = {source: values["windows"] for source, values in found["by source"].items()}
    assert counts == {"clips_test": 2, "davis_val": 4}
    assert set(found["held out by source"][1.0]) == {"clips_train", "davis_train"}
    for values in found["by source"].values():
        assert values["ade"] < 1e-3 and values["baseline"] == pytest.approx(own, abs=1e-3)


def test_the_table_of_factors_and_a_factor_written(tmp_path, monkeypatch, capsys):
    """What is printed of three windows of 0.1 and one of 0.2; the colour of written weights."""
    sources = {
        "clips": dict(ade=0.1, baseline=0.3, windows=3),
        "davis": dict(ade=0.2, baseline=0.5, windows=1),
    }
    found = {"scale": 0.4, "held out by source": {0.4: sources}, "by source": sources}
    monkeypatch.setattr(real_color_scale, "measure", lambda *_: found)
    weights, written = tmp_path / "color.npz", tmp_path / "scaled.npz"
    params = {"conv1a": {"bias": np.float32([3])}, "conv_pre": {"bias": np.float32([2, -1])}}
    half_precision.write(weights, {"task": "color"}, params)
    real_color_scale.main([f"--weights={weights}", f"--data={tmp_path}", "--test"])
    printed = capsys.readouterr().out
    cells = "0.1250 (0.3500) | clips, 3 windows: 0.1000 (0.3000) | davis, 1 windows: 0.2000"
    assert f"| 0.4 | {cells}" in printed and f"| 0.4, test | {cells}" in printed
    assert "The best on the validation videos is 0.4." in printed
    real_color_scale.main([f"--weights={weights}", f"--write={written}", "--scale=0.5"])
    _, scaled = half_precision.read(written)
    assert scaled["conv1a"]["bias"] == 3 and scaled["conv_pre"]["bias"].tolist() == [1, -0.5]


@pytest.mark.slow
def test_a_run_is_written_down(tmp_path, monkeypatch):
    """Two steps of a row of DAVIS: results, weights of the better one."""
    size = (32, 40)
    monkeypatch.setattr(real_data, "FRAME_SIZE", size)
    for source, names in (("davis_train", ("hike", "bus")), ("davis_val", ("cows",))):
        write_source(tmp_path, source, dict.fromkeys(names, 18), size)
        masks = np.zeros((18 * len(names), *size), np.uint8)
        masks[:, 8:24, 8:24] = 1
        np.save(tmp_path / source / "masks.npy", masks)
    for source in ("clips_train", "clips_test", "camvid"):
        write_source(tmp_path, source, {f"{source}1": 16, f"{source}2": 16}, size)
    (tmp_path / "licensed.json").write_text("[]")
    (tmp_path / "done").touch()
    group = next(g for g in real_plans.plan() if g.name == "davis, Conv3b-up")
    small = dict(
        preprocessing__crop_size=(32, 32),
        preprocessing__clip_length=8,
        batch_size=2,
        eval_batch_size=2,
        model__width=0.04,
        augmentation__scale=(1.0, 1.0),
        augmentation__aspect=0.0,
        dtype="float32",
    )
    runs = tuple(dataclasses.replace(run, steps=2, rate=1e-3) for run in group.runs[:2])
    group = dataclasses.replace(
        group,
        set=(*group.set, *real_plans.settings(**small)),
        runs=runs,
        like=(),
        predict=(),
        export="row",
    )
    workdir = tmp_path / "runs"
    workdir.mkdir()
    real_runs.RealWorker(workdir, tmp_path, tmp_path, np.inf).run_groups([group])
    lines = (workdir / "results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [r["seed"] for r in found] == [0, 1] and "error" not in found[0], found
    assert found[0]["by source"]["davis_val"]["windows"] == 2
    assert half_precision.load(workdir / "weights" / "row.npz").task == "segmentation"


# ------------------------------------------------------------------------------------------------
# The teacher


@pytest.mark.parametrize(
    ("channels", "groups", "outputs", "kernel", "stride", "dilation"),
    [(8, 8, 8, 3, 1, 2), (8, 8, 8, 3, 2, 1), (32, 2, 12, 1, 1, 1), (12, 4, 4, 3, 1, 1)],
)
def test_grouped_convolution(channels, groups, outputs, kernel, stride, dilation):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 10, channels)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, channels // groups, outputs)).astype(np.float32)
    pad = kernel // 2 * dilation
    expected = lax.conv_general_dilated(
        *(x, w, (stride, stride), [(pad, pad)] * 2),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    found = jax.jit(espnetv2._grouped, static_argnums=(2, 3))(x, w, stride, dilation)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_resizing_of_the_teacher():
    """Corners on corners; adaptive means of as equal parts as can be."""
    x = np.arange(5, dtype=np.float32)[None, :, None, None]
    row = lambda found: np.asarray(found)[0, :, 0, 0].tolist()
    assert row(espnetv2._resized(x, (9, 1))) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert row(espnetv2._pooled(x, (2, 1))) == [1.0, 3.0]  # frames 0..2 and 2..4
