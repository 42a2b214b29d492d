"""`scenes`: exact flow, labels and depth, reproducible bytes, and no give-away by colour."""

import hashlib
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from experiments.scenes_difficulty import cell_accuracies
from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.scenes import LABEL_NAMES, SceneRenderer, Scenes
from v2v_jax.datasets.scenes.actors import CARS, HUMANS, POROUS, SOLID, VERTICAL_MIX
from v2v_jax.datasets.scenes.camera import half_view
from v2v_jax.datasets.scenes.sprites import Flutter, Sprite, Swing
from v2v_jax.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).parents[2]
TINY = (64, 86)
ALL = Scenes.fields


def scenes(split: str = "train", **options) -> Scenes:
    """Ten tiny videos of 20 frames, unless told otherwise."""
    return Scenes(split, **({"num_videos": 10, "num_frames": 20, "frame_size": TINY} | options))


def warp_back(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Samples image (H,W,3) bilinearly where each pixel's flow (H,W,2) points to."""
    height, width = flow.shape[:2]
    x = np.clip(np.arange(width) + flow[..., 0], 0, width - 1.001)
    y = np.clip(np.arange(height)[:, None] + flow[..., 1], 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    upper = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    lower = image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx
    return upper * (1 - fy) + lower * fy


def warp_errors(renderer: SceneRenderer, t: int, offset: float = 0.0) -> np.ndarray:
    """|frame t+1 brought back by the flow + offset, minus frame t|, valid pixels, grey levels."""
    now, following = renderer.layers(t), renderer.layers(t + 1)
    flow = renderer.flow(now, t)
    valid = renderer.valid(now, following, flow)
    return np.abs(warp_back(following.rgb, flow + offset) - now.rgb)[valid].ravel()


def test_arrays_have_the_declared_types_and_ranges() -> None:
    dataset = scenes()
    arrays = dataset.read(0, 3, 7, ALL)
    assert set(arrays) == set(ALL) == set(FIELDS) - {"flow_occluded", "probabilities"}
    for field, spec in ((name, FIELDS[name]) for name in ALL):
        assert arrays[field].shape == (4, *TINY, *spec.channels), field
        assert arrays[field].dtype == spec.dtype, field
    assert arrays["labels"].max() < len(LABEL_NAMES) == 8
    sky = arrays["labels"] == 0
    assert np.isinf(arrays["depth"][sky]).all()
    others = arrays["depth"][~sky].astype(float)
    assert np.isfinite(others).all() and others.min() > 1.0
    assert np.isfinite(arrays["flow"]).all()
    assert [video.num_frames for video in dataset.videos] == [20] * 10


@pytest.mark.parametrize("frame_size", [(128, 171), (64, 86)])
def test_flow_brings_the_next_frame_back(frame_size: tuple[int, int]) -> None:
    renderers = [scenes(frame_size=frame_size).renderer(video) for video in range(6)]
    right = np.concatenate([warp_errors(r, t) for r in renderers for t in (2, 11)])
    # Smaller frames show the same detail on fewer pixels, which interpolation blurs more.
    assert right.mean() < (0.8 if frame_size[0] == 128 else 1.3)
    assert np.percentile(right, 99) < (8 if frame_size[0] == 128 else 12)
    for offset in (0.5, -0.5):
        wrong = np.concatenate([warp_errors(r, t, offset) for r in renderers for t in (2, 11)])
        assert wrong.mean() > 3 * right.mean()


def test_flow_is_exact_to_a_fraction_of_a_pixel() -> None:
    """The flow explains the frames better than the same flow moved by a tenth of a pixel."""
    for video in range(4):
        renderer = scenes(frame_size=(128, 171)).renderer(video)
        exact = np.square(warp_errors(renderer, 5)).mean()
        for offset in (0.1, -0.1):
            assert exact < np.square(warp_errors(renderer, 5, offset)).mean()


def test_flow_leads_to_the_same_depth_and_label() -> None:
    dataset = scenes()
    for video in range(5):
        arrays = dataset.read(video, 0, 20, ALL)
        for t in range(0, 19, 6):
            valid = arrays["flow_valid"][t]
            flow = arrays["flow"][t].astype(np.float32)
            x = np.rint(np.arange(TINY[1]) + flow[..., 0]).astype(int)[valid]
            y = np.rint(np.arange(TINY[0])[:, None] + flow[..., 1]).astype(int)[valid]
            assert (arrays["labels"][t + 1][y, x] == arrays["labels"][t][valid]).all()
            here = arrays["depth"][t][valid].astype(float)
            there = arrays["depth"][t + 1][y, x].astype(float)
            solid = np.isfinite(here) & (here < 60) & (arrays["labels"][t][valid] != 1)
            np.testing.assert_allclose(there[solid], here[solid], atol=0.1)


def test_hidden_points_are_not_valid() -> None:
    """Where a nearer surface covers the end point, validity is false: brute force over one pair."""
    for video in range(3):
        renderer = scenes().renderer(video)
        now, following = renderer.layers(4), renderer.layers(5)
        flow = renderer.flow(now, 4)
        valid = renderer.valid(now, following, flow)
        expected = np.zeros_like(valid)
        for y, x in np.ndindex(*TINY):
            u, v = flow[y, x]
            px, py = np.float32(x) + u, np.float32(y) + v
            if not now.pure[y, x] or not (0 <= px < TINY[1] - 1 and 0 <= py < TINY[0] - 1):
                continue
            box = np.s_[int(py) : int(py) + 2, int(px) : int(px) + 2]
            same = following.owner[box] == now.owner[y, x]
            expected[y, x] = same.all() and following.pure[box].all()
        np.testing.assert_array_equal(valid, expected)
        assert 0.4 < valid.mean() < 0.98


def test_last_frame_has_flow_and_validity_as_if_the_video_went_on() -> None:
    short = scenes(num_frames=6).read(2, 5, 6, ("flow", "flow_valid"))
    longer = scenes(num_frames=20).read(2, 5, 6, ("flow", "flow_valid"))
    np.testing.assert_array_equal(short["flow"], longer["flow"])
    np.testing.assert_array_equal(short["flow_valid"], longer["flow_valid"])
    assert short["flow_valid"].mean() > 0.3


def test_window_equals_part_of_the_whole_in_any_order() -> None:
    whole = scenes().read(3, 0, 20, ALL)
    other = scenes(num_videos=4)
    for start, stop in ((12, 20), (0, 1), (5, 13)):
        other.read(1, start, stop)
        window = other.read(3, start, stop, ALL)
        for field in ALL:
            np.testing.assert_array_equal(window[field], whole[field][start:stop], err_msg=field)


def digest(dataset: Scenes) -> str:
    """A fingerprint of one window with all fields."""
    arrays = dataset.read(7, 4, 6, ALL)
    return hashlib.sha256(b"".join(arrays[field].tobytes() for field in ALL)).hexdigest()


def run_python(program: str) -> str:
    """What a new interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return result.stdout.strip()


def test_another_process_renders_the_same_bytes() -> None:
    program = "from tests.datasets.test_scenes import digest, scenes; print(digest(scenes()))"
    assert run_python(program) == digest(scenes())


def test_import_needs_neither_tensorflow_nor_opencv() -> None:
    program = (
        "import sys; import v2v_jax.datasets.scenes as s\n"
        "s.Scenes('train', num_videos=1, frame_size=(32, 43)).read(0, 0, 1)\n"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'cv2') if m in sys.modules])"
    )
    assert run_python(program) == "[]"


def test_seed_split_and_index_each_make_another_video() -> None:
    fingerprints = {
        digest(scenes()),
        digest(scenes("test")),
        digest(scenes("validation")),
        digest(scenes(seed=1)),
        digest(pickle.loads(pickle.dumps(scenes()))),
    }
    assert len(fingerprints) == 4
    first, second = (scenes().read(video, 0, 1)["video"] for video in (0, 1))
    assert (first != second).any()


def test_threads_agree_with_one_another() -> None:
    dataset = scenes()
    expected = digest(scenes())
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(digest(dataset))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_processes_read_the_same_videos_as_one() -> None:
    dataset = scenes(num_videos=3, num_frames=2)
    alone = dict(read_videos(dataset, ("video", "flow")))
    dataset.processes = 2
    together = dict(read_videos(dataset, ("video", "flow")))
    assert sorted(alone) == sorted(together) == [0, 1, 2]
    for video, arrays in alone.items():
        np.testing.assert_array_equal(together[video]["flow"], arrays["flow"])
        np.testing.assert_array_equal(together[video]["video"], arrays["video"])


def test_noise_is_new_in_every_frame_and_of_the_strength_asked_for() -> None:
    noisy = scenes(noise=5.0).read(0, 0, 3)["video"].astype(float)
    clean = scenes(noise=0.0).read(0, 0, 3)["video"].astype(float)
    inner = (clean > 30) & (clean < 225)  # where nothing is clipped
    noise = noisy - clean
    assert abs(noise[inner].std() - 5.0) < 0.3
    assert abs(noise[inner].mean()) < 0.2
    pair = inner[0] & inner[1]
    assert abs(np.corrcoef(noise[0][pair], noise[1][pair])[0, 1]) < 0.05


def drawn_sprites(videos: int) -> list[tuple[SceneRenderer, Sprite]]:
    """All sprites of the first few scenes."""
    dataset = scenes(num_videos=videos)
    renderers = [dataset.renderer(video) for video in range(videos)]
    return [(renderer, sprite) for renderer in renderers for sprite in renderer.scene.sprites]


def test_movers_are_labelled_by_their_motion() -> None:
    found = set()
    for _, sprite in drawn_sprites(8):
        found.add(sprite.label)
        moves = sprite.speed != 0.0
        pixels = abs(sprite.speed) * 150 / sprite.z
        assert moves == (sprite.label in (CARS, HUMANS))
        if sprite.label == CARS:
            assert 1.8 <= pixels <= 5.0
        if sprite.label == HUMANS:
            assert 0.9 <= pixels <= 2.4
        if isinstance(sprite.deformation, Swing):
            assert (sprite.deformation.frequency != 0) == (sprite.label == HUMANS)
        if isinstance(sprite.deformation, Flutter):
            assert sprite.label == (VERTICAL_MIX if sprite.deformation.frozen else POROUS)
    assert {SOLID, POROUS, CARS, HUMANS, VERTICAL_MIX} <= found


def test_movers_come_round_again_only_where_no_camera_sees_them() -> None:
    for renderer, sprite in drawn_sprites(4):
        if sprite.speed == 0.0:
            continue
        half_width = sprite.texture.shape[1] * sprite.texel / 2
        assert sprite.period / 2 >= half_view(sprite.z) + half_width - 0.3
        for t in range(200):
            pose = renderer.scene.camera.pose(t, (128, 171))
            for x in (-sprite.period / 2, sprite.period / 2):
                seen = pose.cx + pose.f * (x - pose.tx) / (sprite.z - pose.tz)
                assert seen < 0 or seen > 170


def test_foliage_flutters_visibly() -> None:
    """Flutter moves leaves about a pixel a frame against what a rigid plant would do."""
    speeds = []
    q = np.linspace(0, 60, 50, dtype=np.float32)
    for _, sprite in drawn_sprites(6):
        if isinstance(sprite.deformation, Flutter) and not sprite.deformation.frozen:
            for t in range(12):
                du = sprite.deformation.dx(q, t + 1) - sprite.deformation.dx(q, t)
                dv = sprite.deformation.dy(q, t + 1) - sprite.deformation.dy(q, t)
                speeds.append(np.hypot(du, dv).mean())
    assert len(speeds) > 100
    assert np.mean(speeds) > 0.8


@pytest.mark.slow
def test_classes_are_balanced_and_colour_does_not_give_them_away() -> None:
    train = scenes(num_videos=60, num_frames=1)
    accuracies, share = cell_accuracies(train, scenes("test", num_videos=30, num_frames=1), 1)
    assert share.max() < 0.40
    assert share.min() > 0.01
    assert accuracies["commonest class"] == pytest.approx(share.max(), abs=0.08)
    assert accuracies["colour"] < 0.6
    assert accuracies["colour and row"] < 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "valid"}, "no split 'valid': choose train, test, validation"),
        ({"num_videos": 0}, "positive num_videos, not 0"),
        ({"num_frames": -1}, "positive num_frames, not -1"),
        ({"frame_size": (0, 86)}, "positive frame height, not 0"),
        ({"frame_size": (64, 0)}, "positive frame width, not 0"),
        ({"noise": -1.0}, "noise of 0 or more"),
        ({"seed": -3}, "seed of 0 or more"),
    ],
)
def test_wrong_options_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scenes(**({"split": "train"} | change))


def test_wrong_requests_are_refused() -> None:
    dataset = scenes()
    with pytest.raises(DataError, match="videos 0 to 9 here, not 10"):
        dataset.read(10, 0, 1)
    for window in ((-1, 2), (0, 21), (5, 5)):
        with pytest.raises(DataError, match="has frames 0 to 19"):
            dataset.read(0, *window)
    with pytest.raises(DataError, match="has no sound"):
        dataset.read(0, 0, 1, ("sound",))


def test_odd_frame_sizes_show_the_same_world() -> None:
    for frame_size in ((33, 57), (64, 64), (160, 120), (256, 342)):
        arrays = scenes(frame_size=frame_size).read(0, 0, 1, ALL)
        assert arrays["video"].shape == (1, *frame_size, 3)
        assert np.isfinite(arrays["flow"]).all()
    small = scenes(frame_size=(64, 86), noise=0).read(0, 0, 1, ("labels", "flow"))
    large = scenes(frame_size=(128, 172), noise=0).read(0, 0, 1, ("labels", "flow"))
    agree = small["labels"][0] == large["labels"][0, ::2, ::2]
    assert agree.mean() > 0.93
    rigid = agree & np.isin(small["labels"][0], [0, 1])
    ratio = large["flow"][0, ::2, ::2][rigid].astype(float) - 2 * small["flow"][0][rigid]
    assert np.abs(ratio).mean() < 0.1
