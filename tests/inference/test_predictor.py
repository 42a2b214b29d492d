"""The predictor: alignment, blending, sizes, streams, and what comes with a checkpoint."""

import contextlib
import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import v2v_jax
from tests.networks import noise, stub
from v2v_jax.errors import CheckpointError, DataError
from v2v_jax.inference.network import from_about
from v2v_jax.inference.predictor import Predictor
from v2v_jax.inference.windows import resize_matrix
from v2v_jax.input.preprocess import to_gray
from v2v_jax.media.frame_sources import FrameResizer
from v2v_jax.media.video import read_video, write_video
from v2v_jax.tasks import Color, Depth, Flow, Segmentation

COPY = Predictor(stub(None), scale="native", batch_size=3)
sides = st.integers(1, 149)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 70), sides, sides, st.integers(0, 9))
def test_a_network_that_copies_gives_back_exactly_the_input(t, h, w, seed):
    video = noise(t, h, w, 3, seed=seed)
    np.testing.assert_array_equal(COPY(video), video)


@pytest.mark.parametrize("size", [(3, 25, 31), (17, 141, 137)])
def test_copying_with_whole_frames_or_without_overlap(size):
    video = noise(*size, 3)
    for options in (dict(full_frame=True), dict(overlap=0.0), dict(overlap=0.5, batch_size=7)):
        predictor = Predictor(stub(None), scale="native", **options)
        np.testing.assert_array_equal(predictor(video), video)


def test_every_voxel_is_blended_with_weights_that_sum_to_one():
    # Each window answers a random constant: the blend lies between the least and the largest, and
    # where the network answers 1 everywhere, 1 comes out at every size.
    one = Predictor(stub(lambda p, v: jnp.ones((*v.shape[:4], 1)), Depth()))
    for shape in [(1, 8, 8), (9, 33, 57), (30, 130, 21)]:
        np.testing.assert_allclose(one(noise(*shape, 3)), 1, atol=1e-5)


def test_tiles_compile_nothing_for_videos_of_other_sizes():
    counted = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: counted.append(name) if "backend_compile" in name else None
    )
    for network in (stub(None), stub(lambda p, v: v[..., :2] * 1.0, Flow())):
        predictor = Predictor(network, batch_size=2, scale="native", full_frame=False)
        predictor(noise(1, 8, 8, 3))
        assert counted
        counted.clear()
        for shape in [(1, 8, 8), (30, 41, 53), (8, 150, 20), (17, 24, 32), (11, 24, 290)]:
            predictor(noise(*shape, 3))
        assert counted == []
        counted.clear()


def windows_of(predictor, *sizes):
    """The shapes (B,T,H,W,3) that the network was called with, for videos of (H,W)."""
    return {
        shape
        for size in sizes
        for shape in _calls(predictor, lambda size=size: predictor(noise(3, *size, 3)))
    }


def _calls(predictor, run):
    seen, forward = [], predictor._forward
    predictor._forward = lambda params, batch: seen.append(batch.shape) or forward(params, batch)
    run()
    predictor._forward = forward
    return seen


def test_a_frame_is_one_window_as_large_as_it_must_be():
    predictor = Predictor(stub(None), scale="native", batch_size=1)
    # Sizes that are padded to the same one share its program.
    assert windows_of(predictor, (17, 20), (32, 32), (25, 31)) == {(1, 8, 32, 32, 3)}
    assert windows_of(predictor, (5, 9), (16, 1)) == {(1, 8, 16, 16, 3)}
    # Four clips of 16x16 are the most: larger frames have several windows.
    assert windows_of(predictor, (33, 32)) == {(1, 8, 16, 32, 3)}
    assert windows_of(predictor, (16, 65)) == {(1, 8, 16, 48, 3)}
    fixed = dataclasses.replace(stub(None), any_size=False)
    for network, options in ((stub(None), dict(full_frame=False)), (fixed, {})):
        tiles = Predictor(network, scale="native", batch_size=1, **options)
        assert windows_of(tiles, (17, 20), (33, 80)) == {(1, 8, 16, 16, 3)}
    whole = Predictor(stub(None), scale="native", batch_size=1, full_frame=True)
    assert windows_of(whole, (33, 80)) == {(1, 8, 48, 80, 3)}
    # As many voxels a call as 6 clips have, not as many windows.
    several = Predictor(stub(None), scale="native", batch_size=6)
    assert windows_of(several, (30, 30), (9, 9)) == {(2, 8, 32, 32, 3), (6, 8, 16, 16, 3)}


@pytest.mark.parametrize("blend", ["tiles", "frames"])
@pytest.mark.parametrize(
    "size, scaled", [((25, 31), (25, 31)), ((3, 30), (3, 30)), ((48, 60), (24, 32))]
)
def test_one_window_is_the_network_applied_to_the_padded_frame(size, scaled, blend):
    """The reference: reflect, apply, cut off, resize. The network sees all of its window."""

    def apply(params, video):
        x = video.astype(jnp.float32) / 255
        return jnp.cumsum(x, axis=2) * jnp.sin(jnp.cumsum(x, axis=3)) + x.mean(
            (2, 3), keepdims=True
        )

    video = noise(8, *size, 3)
    predictor = Predictor(
        stub(apply, Segmentation(("a", "b", "c"))),
        scale="native" if size == scaled else "training",
        blend=blend,
    )
    seen = np.stack([FrameResizer(scaled)(frame) for frame in video])
    missing = [-(-n // 16) * 16 - n for n in scaled]
    before = [n // 2 for n in missing]
    margins = [(0, 0), *((lo, n - lo) for lo, n in zip(before, missing)), (0, 0)]
    answer = np.asarray(apply(None, np.pad(seen, margins, mode="reflect")[None])[0], np.float64)
    answer = answer[:, before[0] :, before[1] :][:, : scaled[0], : scaled[1]]
    rows, columns = (resize_matrix(n, m) for n, m in zip(scaled, size))
    expected = np.einsum("yh,thwk,xw->tyxk", rows, answer, columns)
    np.testing.assert_allclose(predictor.probabilities(video), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "size, options, frames",
    [
        ((25, 31), {}, True),
        ((25, 31), {"full_frame": False}, False),  # serves any size
        ((25, 31), {"blend": "tiles"}, False),
        ((70, 90), {}, False),  # several windows
    ],
)
def test_one_window_a_frame_is_blended_with_few_programs(size, options, frames):
    apply = lambda params, video: video[..., :2].astype(jnp.float32)
    video = noise(19, *size, 3)
    predictor = Predictor(stub(apply, Flow()), scale="native", **options)
    found = predictor(video)
    assert bool(predictor._frame_programs) == frames
    np.testing.assert_allclose(found, video[..., :2], atol=1e-3)


def test_flow_is_in_pixels_of_the_video():
    # The network sees 24 rows and 48 columns, of a video of 48 rows and 96 columns.
    apply = lambda p, v: jnp.broadcast_to(jnp.array([1.5, -2.0]), (*v.shape[:4], 2))
    flow = Predictor(stub(apply, Flow()))(noise(9, 48, 96, 3))
    assert flow.shape == (9, 48, 96, 2) and flow.dtype == np.float32
    np.testing.assert_allclose(flow, np.broadcast_to([3.0, -4.0], flow.shape), rtol=1e-5)


def test_labels_and_probabilities_are_aligned_with_the_video():
    # Class 1 where the picture is bright: a square at rows 40..79, columns 60..119 of 96x192.
    video = np.zeros((10, 96, 192, 3), np.uint8)
    video[:, 40:80, 60:120] = 255
    bright = lambda v: v[..., :1].astype(jnp.float32) / 255
    apply = lambda p, v: jnp.concatenate([1 - bright(v), bright(v)], -1)
    names = ("dark", "bright")
    predictor = Predictor(stub(apply, Segmentation(names)))
    labels = predictor(video)
    assert labels.shape == (10, 96, 192) and labels.dtype == np.uint8
    assert (labels != (video[..., 0] > 0)).mean() < 0.01
    probabilities = predictor.probabilities(video)
    assert probabilities.shape == (10, 96, 192, 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(-1), labels)
    with pytest.raises(ValueError, match="has no probabilities"):
        COPY.probabilities(video)


def test_a_residual_colouring_keeps_the_detail_of_the_video():
    video = noise(9, 131, 77, 3)
    predictor = Predictor(stub(lambda p, v: jnp.zeros(v.shape), Color(residual=True)))
    gray = np.asarray(to_gray(video)) * 255
    assert np.abs(predictor(video) - gray).max() <= 0.51


def test_streams_give_the_same_frame_by_frame_and_as_early_as_they_can():
    video = noise(40, 31, 45, 3)
    drawn = []

    def frames():
        for frame in video:
            drawn.append(frame)
            yield frame

    stream = COPY.stream(frames())
    first = next(stream)
    np.testing.assert_array_equal(first, video[0])
    np.testing.assert_array_equal(np.stack(list(stream)), video[1:])
    assert len(drawn) == 40


def test_a_stream_that_is_left_ends_its_threads():
    before = threading.active_count()
    endless = (noise(8, 8, 3) for _ in iter(int, 1))
    stream = COPY.stream(endless)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_frames_before_an_error_are_predicted_first():
    def frames():
        yield from noise(13, 9, 9, 3)
        raise DataError("The camera fell off.")

    results = []
    with pytest.raises(DataError, match="fell off"):
        for result in COPY.stream(frames()):
            results.append(result)
    np.testing.assert_array_equal(np.stack(results), noise(13, 9, 9, 3))

    def broken():
        yield noise(9, 9, 3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(COPY.stream(broken()))


def test_a_cameras_frames_one_by_one_as_in_the_documentation():
    """docs/guides/own_video.md: what comes out is aligned, bounded in how far it lags, and ends."""
    taken, released = [], []

    def camera():
        try:
            while True:
                taken.append(noise(20, 30, 3, seed=len(taken)))
                yield taken[-1][..., ::-1]  # OpenCV's frames are BGR, turned without a copy
        finally:
            released.append(True)

    live = Predictor(stub(None), scale="native", full_frame=True, batch_size=1)
    with contextlib.closing(live.stream(camera())) as stream:
        for number, result in zip(range(40), stream):
            np.testing.assert_array_equal(result, taken[number][..., ::-1])
            # Two windows of 8, what two queues of 16 hold, and what is on its way.
            assert len(taken) - number <= 80
    assert released == [True]


def test_what_a_predictor_is_shows_in_its_repr(trained):
    run = trained("seg")
    step = v2v_jax.load(run.workdir).network.step
    assert repr(v2v_jax.load(run.workdir, overlap=0.5, full_frame=True)) == (
        "<Predictor: segmentation of 8 classes, trained on scenes, conv3b_up of width 0.05, "
        f"0.0102 M parameters, clips of 8×32×32 from frames of 48×64, step {step}, overlap=0.5, "
        "full_frame=True>"
    )
    assert repr(COPY) == (
        "<Predictor: color, clips of 8×16×16 from frames of 24×32, scale='native'>"
    )


def test_the_computation_has_the_dtype_that_was_asked_for(trained):
    workdir = trained("flow").workdir
    for dtype in ("auto", "float32", "bfloat16"):
        network = v2v_jax.load(workdir, dtype=dtype).network
        batch = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), np.uint8)
        program = jax.make_jaxpr(network.apply)(network.params, batch)
        assert ("bf16" in str(program)) == (dtype == "bfloat16"), dtype  # CPU: auto is float32
        assert [value.dtype for value in program.out_avals] == [np.float32]
    with pytest.raises(ValueError, match="dtype is 'half'; expected one of 'auto', 'float32'"):
        v2v_jax.load(workdir, dtype="half")


def test_grey_and_transparent_videos():
    gray = noise(9, 20, 21)
    as_rgb = np.repeat(gray[..., None], 3, axis=-1)
    for video in (gray, gray[..., None]):
        np.testing.assert_array_equal(COPY(video), as_rgb)
    rgba = noise(9, 20, 21, 4)
    np.testing.assert_array_equal(COPY(rgba), rgba[..., :3])


@pytest.mark.parametrize(
    "video, message",
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "has no frames"),
        (iter([]), "has no frames"),
        (np.zeros((4, 8, 8, 3), np.float32), "float32 in 0..0; expected .* uint8"),
        (np.zeros((4, 8, 8, 3), np.uint16), "uint16 in 0..0; expected .* uint8"),
        (np.zeros((4, 8, 8, 2), np.uint8), "2 channels"),
        (np.zeros((4, 0, 8, 3), np.uint8), "expected"),
        (np.zeros((8, 8), np.uint8), "expected .T,H,W,3."),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "frame 1, is 9x8"),
        ("no/such/file.mp4", "does not exist"),
    ],
)
def test_bad_videos_are_one_clear_sentence(video, message):
    with pytest.raises(DataError, match=message):
        COPY(video)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(scale="double"), "'training' or 'native'"),
        (dict(overlap=1.0), "overlap"),
        (dict(batch_size=0), "batch_size"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(stub(None), **options)
    with pytest.raises(ValueError, match="full_frame"):
        Predictor(dataclasses.replace(stub(None), any_size=False), full_frame=True)


# ------------------------------------------------------------------------------------------------
# Checkpoints


@pytest.mark.parametrize(
    "name", ["seg", "flow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("color", "depth"))]
)
def test_a_checkpoint_predicts_what_the_network_does(trained, name):
    run = trained(name)
    predictor = v2v_jax.load(run.workdir)
    from v2v_jax.evaluation.evaluator import best_params
    from v2v_jax.run.experiment import make_experiment

    experiment = make_experiment(run.config, "test")
    step, params = best_params(experiment, run.workdir)
    assert predictor.network.step == step and predictor.task == experiment.task.name
    assert predictor.label_names == experiment.task.label_names
    # One window, of the training scale's rows: nothing is blended nor resized.
    clip = experiment.dataset.read(0, 0, 8)["video"]
    wide = Predictor(predictor.network, full_frame=True)
    batch = {"video": jnp.asarray(clip)[None]}
    task = experiment.task

    @jax.jit
    def predicted(params, batch):
        inputs = task.inputs(batch, experiment.preprocessing)
        raw = experiment.model.apply({"params": params}, inputs)
        return task.predict(task.complete(raw, batch))[0]

    expected = np.asarray(predicted(params, batch))
    if name == "seg":
        np.testing.assert_allclose(wide.probabilities(clip), expected, atol=1e-5)
        np.testing.assert_array_equal(wide(clip), expected.argmax(-1))
    elif name == "color":
        assert np.abs(wide(clip) / 255 - expected).max() < 0.51 / 255 + 1e-5
    else:
        np.testing.assert_allclose(wide(clip), expected, rtol=1e-4, atol=1e-5)


def test_every_way_to_name_a_checkpoint(trained, tmp_path):
    workdir = trained("seg").workdir
    best = v2v_jax.load(workdir).network.step
    assert v2v_jax.load(str(workdir / "checkpoints")).network.step == best
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    for step in steps:
        assert v2v_jax.load(workdir / "checkpoints" / str(step)).network.step == step
    for wrong in (tmp_path, tmp_path / "missing", workdir / "checkpoints" / "7777"):
        with pytest.raises(CheckpointError, match="No checkpoint in"):
            v2v_jax.load(wrong)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="No finished checkpoint"):
        v2v_jax.load(tmp_path)


def test_a_video_file_predicts_as_its_frames_do(trained, tmp_path):
    write_video(tmp_path / "video.mp4", noise(11, 40, 56, 3), fps=10)
    frames, _ = read_video(tmp_path / "video.mp4")
    predictor = v2v_jax.load(trained("seg").workdir)
    expected = predictor(frames)
    np.testing.assert_array_equal(predictor(tmp_path / "video.mp4"), expected)
    np.testing.assert_array_equal(predictor(iter(frames)), expected)


@pytest.mark.parametrize("change", [{"model": None}, {"config": {}}, {"preprocessing": {"x": 1}}])
def test_a_checkpoint_of_another_version_is_one_clear_sentence(trained, monkeypatch, change):
    from v2v_jax.run.checkpoint import Checkpoints

    read = Checkpoints.read_about
    other = lambda self, step: read(self, step) | change | {"version": "0.0.7"}
    monkeypatch.setattr(Checkpoints, "read_about", other)
    with pytest.raises(CheckpointError, match="written by version 0.0.7 .* use the version"):
        v2v_jax.load(trained("seg").workdir)


def test_a_checkpoint_whose_options_stand_beside_the_others_still_loads(trained, monkeypatch):
    """As all did before config.task_options."""
    from v2v_jax.run.checkpoint import Checkpoints
    from v2v_jax.run.stored_checkpoints import compare_about

    run, read = trained("color"), Checkpoints.read_about

    def older(self, step):
        about = read(self, step)
        options = about.pop("task_options")
        del about["task_module"], about["task_stored"]
        about["config"] |= options
        del about["config"]["task_options"]
        return about | {"residual": options["residual"]}  # hints stood there only where there were

    expected = v2v_jax.load(run.workdir)(noise(8, 24, 32, 3))
    monkeypatch.setattr(Checkpoints, "read_about", older)
    predictor = v2v_jax.load(run.workdir)
    task = predictor.network.task
    assert task.residual and task.hints == 0 and "task_options" not in predictor.network.about
    np.testing.assert_array_equal(predictor(noise(8, 24, 32, 3)), expected)
    now = {**predictor.network.about, "task_options": {"residual": True, "hints": 0}}
    compare_about(predictor.network.about, now, run.workdir)
    for changed in ({"residual": False, "hints": 0}, {"residual": True, "hints": 3}):
        with pytest.raises(CheckpointError, match="task_options is"):
            compare_about(predictor.network.about, now | {"task_options": changed}, run.workdir)


def test_a_task_that_is_not_registered_is_one_clear_sentence():
    about = {"task": "squares", "task_module": "my_squares"}
    with pytest.raises(
        CheckpointError,
        match=r"Checkpoint x is for the task 'squares', which is not registered here \(known: seg.*"
        r"import my_squares first, or add --import=my_squares",
    ):
        from_about(about, "Checkpoint x")


def test_a_classifier_has_no_answer_for_every_voxel():
    with pytest.raises(CheckpointError, match="'classification'; prediction needs a network"):
        from_about({"task": "classification"}, "The checkpoint x")


def test_importing_the_package_stays_light():
    import subprocess
    import sys

    code = (
        "import sys, v2v_jax; print(sorted({'jax', 'av', 'tensorflow', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
