"""`domain=wide`: exact truth under blur, noise and compression, the same bytes in any window."""

import dataclasses
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from v2v_jax import datasets
from v2v_jax.datasets.base.video_dataset import FIELDS, IGNORE_LABEL
from v2v_jax.datasets.scenes import Scenes, photography, tiles
from v2v_jax.datasets.scenes.actors import CARS, HUMANS, POROUS
from v2v_jax.datasets.scenes.collage_renderer import CollageRenderer
from v2v_jax.datasets.scenes.compression import CODECS, compress
from v2v_jax.datasets.scenes.wide import WideVideo
from v2v_jax.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).parents[2]
TINY = (64, 86)
ALL = Scenes.fields
MANY = 32


def scenes(split: str = "train", **options) -> Scenes:
    """Tiny videos of 20 frames of the wide domain, unless told otherwise."""
    sizes = {"num_videos": MANY, "num_frames": 20, "frame_size": TINY}
    return Scenes(split, **(sizes | {"domain": "wide"} | options))


@pytest.fixture(scope="module")
def videos() -> list[WideVideo]:
    """MANY of them, built once."""
    dataset = scenes()
    return [dataset.wide_video(video) for video in range(MANY)]


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


@pytest.mark.parametrize("compression", ["h264", "mpeg4", "jpeg", "none"])
def test_window_equals_part_of_the_whole(compression: str) -> None:
    whole = scenes(compression=compression).read(5, 0, 20, ALL)
    longer = scenes(compression=compression, num_frames=40)
    for field, spec in FIELDS.items():
        if field in ALL:
            assert whole[field].shape == (20, *TINY, *spec.channels)
            assert whole[field].dtype == spec.dtype
    for start, stop in ((3, 6), (14, 18), (16, 17)):  # 16 begins a group of frames
        window = longer.read(5, start, stop, ALL)
        for field in ALL:
            np.testing.assert_array_equal(window[field], whole[field][start:stop], err_msg=field)


def test_another_process_makes_the_same_bytes() -> None:
    def digest(dataset: Scenes) -> str:
        arrays = dataset.read(7, 2, 5, ALL)
        return hashlib.sha256(b"".join(arrays[f].tobytes() for f in ALL)).hexdigest()

    program = (
        "import hashlib; from v2v_jax.datasets.scenes import Scenes; f = Scenes.fields\n"
        "d = Scenes('train', num_videos=9, num_frames=20, frame_size=(64, 86), domain='wide')\n"
        "a = d.read(7, 2, 5, f)\n"
        "print(hashlib.sha256(b''.join(a[k].tobytes() for k in f)).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    digests = {digest(scenes()), other.stdout.strip()}
    assert len(digests) == 1
    assert len(digests | {digest(scenes("validation")), digest(scenes(seed=1))}) == 3


def test_compression_moves_the_picture_and_not_the_truth() -> None:
    clean = scenes(compression="none").read(3, 0, 3, ALL)
    coded = scenes(compression="h264").read(3, 0, 3, ALL)
    for field in ALL[1:]:
        np.testing.assert_array_equal(clean[field], coded[field])
    assert (clean["video"] != coded["video"]).any()


@pytest.mark.parametrize("frame_size", [TINY, (128, 171)])
def test_flow_brings_the_next_sharp_frame_back(frame_size: tuple[int, int]) -> None:
    dataset, judged = scenes(frame_size=frame_size), 0
    for number in range(12):
        video = dataset.wide_video(number)
        times = [video.clock(frame) for frame in (3, 4)]
        now, following = (video.renderer.layers(t) for t in times)
        flow = video.renderer.flow(now, *times)
        valid = video.renderer.valid(now, following, flow)
        right, wrong = (
            np.abs(warp_back(following.rgb, flow + offset) - now.rgb)[valid].mean()
            for offset in (0.0, 0.5)
        )
        if valid.mean() < 0.1 or wrong < 0.3:  # nothing but a textureless wall
            continue
        judged += 1
        assert right < 2.0
        assert right < 0.5 * wrong
    assert judged >= 8


def test_what_a_collage_shows_comes_round_again_out_of_sight_only(videos: list[WideVideo]) -> None:
    moving = [v for v in videos if isinstance(v.renderer, CollageRenderer) and v.clock.rate]
    for video in moving[:8]:
        collage, size = video.renderer.collage, video.renderer.frame_size
        for t in range(47):
            t0, t1 = video.clock(t), video.clock(t + 1)
            for sheet in collage.sheets[1:]:
                centres = [
                    np.linalg.solve(matrix, offset)  # before the camera turns and zooms
                    for matrix, offset in (
                        (collage.place(dataclasses.replace(sheet, growth=REST, angle=REST), t))
                        for t in (t0, t1)
                    )
                ]
                if np.abs(centres[0] - centres[1]).max() < sheet.period / 2:
                    continue
                for t_seen in (t0, t1):
                    rows, columns = video.renderer._box(sheet, *collage.place(sheet, t_seen))
                    assert rows.start >= rows.stop or columns.start >= columns.stop, size


REST = lambda t: 0.0


def test_domain_is_wide(videos: list[WideVideo]) -> None:
    speeds, kinds = [], set()
    for video in videos:
        times = [video.clock(frame) for frame in (3, 4)]
        flow = video.renderer.flow(video.renderer.layers(times[0]), *times)
        speeds.append(np.linalg.norm(flow, axis=-1).ravel() * 2)  # at 128x171
        kinds.add((type(video.renderer).__name__, video.codec))
    speed = np.concatenate(speeds)
    assert np.percentile(speed, 99) >= 20
    assert 0.1 < (speed < 0.05).mean() < 0.5
    assert np.percentile(speed, 50) < 3
    assert {codec for _, codec in kinds} == set(CODECS) and len({name for name, _ in kinds}) == 2
    for flaw in ("shutter", "blur", "grain", "flicker"):
        values = [getattr(video.look, flaw) for video in videos]
        assert 0 < np.count_nonzero(values) < MANY


def test_stills_do_not_move_and_show_nothing_that_is_called_moving(videos: list[WideVideo]) -> None:
    still = [number for number, video in enumerate(videos) if video.clock.rate == 0]
    assert 1 <= len(still) < MANY / 3
    for number in still[:3]:
        arrays = scenes().read(number, 0, 2, ALL)
        assert not arrays["flow"].any()
        assert not np.isin(arrays["labels"], (CARS, HUMANS, POROUS)).any()


def test_bars_and_captions_stand_still_and_are_not_labelled(videos: list[WideVideo]) -> None:
    boxed = [n for n, video in enumerate(videos) if max(video.look.bars)][:2]
    captioned = [n for n, video in enumerate(videos) if video.look.caption is not None][:3]
    assert boxed and captioned
    for number in {*boxed, *captioned}:
        mask, shown = photography.covered(videos[number].look, TINY)
        assert 0.002 < mask.mean() < 0.6
        arrays = scenes(compression="none").read(number, 0, 2, ALL)
        assert (arrays["labels"][:, mask] == IGNORE_LABEL).all()
        assert np.isinf(arrays["depth"][:, mask]).all()
        assert not arrays["flow"][:, mask].any()
        assert (arrays["video"][:, mask] == shown[mask]).all()
        y, x = np.mgrid[: TINY[0], : TINY[1]]
        inner = mask & (y < TINY[0] - 1) & (x < TINY[1] - 1)
        inner[:-1, :-1] &= mask[1:, 1:] & mask[1:, :-1] & mask[:-1, 1:]
        assert arrays["flow_valid"][:, inner].all()
        valid = arrays["flow_valid"][0] & ~mask
        end = (np.stack([x, y], -1) + arrays["flow"][0])[valid].astype(int)
        assert not mask[end[:, 1], end[:, 0]].any()


def test_motion_blur_does_not_move_the_picture() -> None:
    judged = 0
    dataset = scenes(frame_size=(128, 171))
    for number in range(MANY):
        video = dataset.wide_video(number)
        if not isinstance(video.renderer, CollageRenderer) or not video.clock.rate:
            continue
        video.look = dataclasses.replace(video.look, shutter=1.0)
        t = video.clock(3)
        now = video.renderer.layers(t)
        moments = video._exposures(now, t)
        assert moments.mean() == pytest.approx(t)
        if len(moments) < 4:
            continue
        blurred = sum(video.renderer.layers(m).rgb for m in moments) / len(moments)
        inner = np.s_[20:-20, 20:-20]
        here, *elsewhere = (
            np.square(np.roll(blurred, shift, (0, 1))[inner] - now.rgb[inner]).mean()
            for shift in ((0, 0), (0, 2), (0, -2), (2, 0), (-2, 0))
        )
        assert 0.05 < here < min(elsewhere)
        judged += 1
        if judged == 3:
            return
    raise AssertionError("no collage moves fast")


def test_codecs_lose_more_at_lower_rates_and_nothing_of_size() -> None:
    rng = np.random.default_rng(0)
    picture = tiles.picture(rng)[:70, :91].astype(np.uint8)  # no multiple of 16
    frames = [np.roll(picture, shift, 1) for shift in range(4)]
    for codec, good, bad in (("h264", 18, 42), ("mpeg4", 2, 28), ("jpeg", 95, 8)):
        errors = []
        for quality in (good, bad):
            coded = compress(frames, codec, quality)
            assert len(coded) == 4 and coded[0].shape == picture.shape
            difference = np.abs(np.stack(coded).astype(float) - np.stack(frames))
            errors.append(difference.mean())
            shifted = np.abs(np.stack(coded[1:]).astype(float) - np.stack(frames[:-1])).mean()
            assert difference.mean() < shifted  # each is its own frame
        assert errors[0] < 4 and errors[1] > 1.5 * errors[0]
    grey = [np.full((64, 64, 3), 100, np.uint8)]
    assert np.abs(compress(grey, "h264", 18)[0].astype(int) - 100).max() <= 2
    assert compress(frames, "none", 0)[2] is frames[2]


def test_tiles_have_no_seams() -> None:
    for seed in range(24):
        tile = tiles.picture(np.random.default_rng(seed))
        assert tile.shape == (tiles.SIZE, tiles.SIZE, 3) and np.isfinite(tile).all()
        for axis in (0, 1):
            steps = np.abs(np.diff(tile, axis=axis)).mean((1 - axis, 2))  # rows or columns
            seam = np.abs(np.take(tile, 0, axis) - np.take(tile, -1, axis)).mean()
            assert seam < 1.5 * steps.max() + 1


def test_without_pyav_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for compression in ("mixed", "h264", "mpeg4"):
        with pytest.raises(ConfigError, match="needs PyAV, which is not installed here"):
            scenes(compression=compression)
    scenes(compression="jpeg").read(0, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "narrow"}, "no domain 'narrow': choose plain or wide"),
        ({"compression": "vp9"}, "no compression 'vp9': choose h264, mpeg4, jpeg, none, mixed"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scenes(**options)


def test_classes_of_whole_videos_are_of_the_plain_domain() -> None:
    assert scenes().video_label_names == ()
    with pytest.raises(DataError):
        scenes().check_fields(["video_label"])


def test_configuration_opens_it_and_its_cache_is_its_own() -> None:
    data = datasets.DATASETS["scenes"].options | {"name": "scenes", "domain": "wide"}
    assert datasets.load(data, "validation", TINY).domain == "wide"
    identities = [scenes(), scenes(domain="plain"), scenes(compression="jpeg")]
    assert len({str(dataset.identity()) for dataset in identities}) == 3


def test_what_is_prepared_is_of_the_plain_domain() -> None:
    data = datasets.DATASETS["scenes"].options | {"name": "scenes", "source": "tfds"}
    with pytest.raises(ConfigError, match="has the plain domain only"):
        datasets.load(data | {"domain": "wide"}, "train", TINY)


def test_plain_videos_are_those_that_results_refer_to() -> None:
    """Means, not bytes: another processor's sine may round another way."""
    dataset = Scenes("test", num_videos=3, frame_size=TINY, noise=0.0)
    arrays = dataset.read(2, 7, 8, ALL)
    means = [float(arrays["video"].mean()), float(arrays["labels"].mean())]
    means += [
        float(np.abs(arrays["flow"].astype(float)).mean()),
        float(arrays["flow_valid"].mean()),
    ]
    np.testing.assert_allclose(means, PLAIN, rtol=1e-3)


PLAIN = [128.652071, 1.766715, 0.396289, 0.644077]
