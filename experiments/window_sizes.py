"""What larger windows, and less overlap in time, do to the answers of the zoo's networks.

    python -m experiments.window_sizes --data=data --output=runs/window_sizes

On what the networks were chosen by, never on a test set: the videos that validate in
`experiments.real_data` (120×213, `FRAMES` frames from the middle) for `people` (beside its
teachers' labels), `flow` (beside Brox's method) and `color`, and wide scenes held back from
training for `scenes` and `depth` (128×171). Prints a Markdown table of the tasks' headline metrics,
pooled over voxels, and by how much they exceed the first way's on the mean over the videos ± its
standard error. What teachers say is kept in OUTPUT. CPU seconds are those of the process, without
compiling.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments import espnetv2, real_data, real_video
from experiments.real_data import LABEL_EVERY, TEACHER_SIZE, VALIDATION, cover, sure
from v2v_jax import zoo
from v2v_jax.datasets import dataset_entry
from v2v_jax.datasets import load as load_dataset
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.inference.predictor import Predictor
from v2v_jax.labelling.tflite_teacher import tflite_teacher
from v2v_jax.media.video import read_video
from v2v_jax.system import compilation_cache

FRAMES = 28  # of a video: two windows of 16 that overlap by a quarter
SCENES = 8
Videos = dict[str, np.ndarray]

# Tiles of the training clip, or frames as one window: scaled to a multiple of the network's
# strides, or padded to it. Name → (options of `Predictor`, frames of a window; 0: as the clip).
WAYS: dict[str, tuple[dict[str, Any], int]] = {
    "tiles, a quarter": (dict(full_frame=False), 0),
    "scaled, a quarter": (dict(), 0),
    "padded, a quarter": (dict(full_frame=True), 0),
    "scaled, half": (dict(overlap=0.5), 0),
    "scaled, an eighth": (dict(overlap=0.125), 0),
    "scaled, none": (dict(overlap=0.0), 0),
    "scaled, 32 frames, an eighth": (dict(overlap=0.125), 32),
}


def real_videos(data: pathlib.Path) -> Videos:
    """Name → (T,H,W,3) uint8 RGB of 120×213, the videos that validate."""
    middle = lambda frames: frames[max(0, (len(frames) - FRAMES) // 2) :][:FRAMES]
    found = {}
    davis = Davis(data / "davis2016", "train")
    for number, info in enumerate(davis.videos):
        if info.name in VALIDATION:
            found[f"davis/{info.name}"] = middle(np.stack(list(davis.native_frames(number))))
    paths = {path.stem: path for path in (data / "clips" / "train").glob("*.mp4")}
    for name in real_data.held_back_clips(sorted(paths)):
        found[f"clips/{name}"] = middle(read_video(paths[name])[0])
    return {name: np.stack([np.asarray(f) for f in frames]) for name, frames in found.items()}


def small(video: np.ndarray) -> np.ndarray:
    """As the networks saw it in training."""
    return np.stack([cover(frame, real_data.FRAME_SIZE) for frame in video])


def persons(data: pathlib.Path, videos: Mapping[str, np.ndarray]) -> Videos:
    """What both teachers say of every second frame, 255 elsewhere (`real_teachers`)."""
    import jax

    people = tflite_teacher(str(data / "teachers" / "selfie_segmentation.tflite"))
    state = espnetv2.read_state(data / "teachers" / "espnetv2_s_2.0_pascal_384x384.pth")
    ask = jax.jit(functools.partial(espnetv2.espnetv2, state))
    result = {}
    for name, frames in videos.items():
        labels = np.full((len(frames), *real_data.FRAME_SIZE), IGNORE_LABEL, np.uint8)
        for t in range(0, len(frames), 2 * LABEL_EVERY):
            codes, _ = people.encoded(frames[t : t + 1], 1.0)
            one = sure(cover(codes[0, ..., 1], real_data.FRAME_SIZE))
            classes = np.asarray(ask(cover(frames[t], TEACHER_SIZE)[None]))[0]
            others = 1 - classes[..., 0] - classes[..., espnetv2.PERSON]
            other = sure(
                cover(np.rint(255 * np.clip(others, 0, 1)).astype(np.uint8), real_data.FRAME_SIZE)
            )
            one[other == 1] = 0
            one[(other == IGNORE_LABEL) & (one == 1)] = IGNORE_LABEL
            labels[t] = one
        result[name] = labels
    return result


def scenes() -> Any:
    """Wide scenes that validate, of the seed that trained."""
    data = dataset_entry("scenes").options | dict(name="scenes", cache="", domain="wide")
    data |= dict(num_validation_videos=SCENES, num_frames=FRAMES)
    return load_dataset(data, "validation", (128, 171))


# ------------------------------------------------------------------------------------------------
# Metrics: sums over the videos, so that each voxel counts the same


def _regions(found: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    known = truth != IGNORE_LABEL
    here, there = found[known] == 1, truth[known] == 1
    return {
        "J of persons": (float((here & there).sum()), float((here | there).sum())),
        "accuracy": (float((here == there).sum()), float(known.sum())),
    }


def _end_points(found: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    distance = np.linalg.norm(found[: len(truth)] - truth, axis=-1)
    return {"EPE to Brox, px": (float(distance.sum()), float(distance.size))}


def _colors(found: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    distance = np.sqrt((((found.astype(np.float64) - truth) / 255) ** 2).sum(-1))
    return {"ADE": (float(distance.sum()), float(distance.size))}


def _classes(found: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    known = truth != IGNORE_LABEL
    return {"accuracy": (float((found == truth)[known].sum()), float(known.sum()))}


def _log_depth(found: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    known = (truth > 0) & (truth < 200)  # beyond is the sky
    error = np.log(np.maximum(found[known], 1e-3)) - np.log(truth[known])
    return {"mean squared log": (float((error**2).sum()), float(known.sum()))}


Metric = Callable[[np.ndarray, np.ndarray], dict[str, tuple[float, float]]]


def cases(data: pathlib.Path, output: pathlib.Path) -> Iterator[tuple[str, Videos, Videos, Metric]]:
    """(network, videos, truths, metric)."""
    real = real_videos(data)
    seen = {name: small(video) for name, video in real.items()}
    yield "people", seen, _kept(output / "persons.npz", lambda: persons(data, real)), _regions
    clips = {name: video for name, video in seen.items() if name.startswith("clips")}
    clips = {name: video[:17] for name, video in clips.items()}
    flow = lambda: {n: real_video.teacher_flow(v, "Brox, accurate") for n, v in clips.items()}
    longer = {name: seen[name] for name in clips}
    yield "flow", longer, _kept(output / "brox.npz", flow), _end_points
    yield "color", seen, seen, _colors
    rendered = scenes()
    read = lambda field: {
        info.name: rendered.read(n, 0, info.num_frames, (field,))[field]
        for n, info in enumerate(rendered.videos)
    }
    videos = read("video")
    yield "scenes", videos, read("labels"), _classes
    yield "depth", videos, read("depth"), _log_depth


def _kept(path: pathlib.Path, make: Callable[[], Videos]) -> Videos:
    if not path.exists():
        np.savez(path, **make())
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def predictor(name: str, way: str) -> Predictor:
    """A network of the zoo, asked in one of `WAYS`."""
    options, frames = WAYS[way]
    network = zoo.load(name).network
    if frames:
        rules = dataclasses.replace(network.preprocessing, clip_length=frames)
        network = dataclasses.replace(network, preprocessing=rules)
    return Predictor(network, **options)


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--networks", default="people,flow,color,scenes,depth")
    parser.add_argument("--ways", default="; ".join(WAYS), help="of WAYS, with semicolons")
    args = parser.parse_args(argv)
    compilation_cache.enable()
    args.output.mkdir(parents=True, exist_ok=True)
    print("| network | way | metrics | CPU seconds a frame |\n|---|---|---|---|")
    for name, videos, truths, metric in cases(args.data, args.output):
        if name not in args.networks.split(","):
            continue
        first: dict[str, Any] = {}
        for way in args.ways.split("; "):
            asked, by_video, frames = predictor(name, way), {}, 0
            asked(next(iter(videos.values())))
            start = time.process_time()
            for key, video in videos.items():
                found = asked(video)
                frames += len(video)
                for label, pair in metric(found, truths[key]).items():
                    by_video.setdefault(label, {})[key] = pair
            spent = (time.process_time() - start) / frames
            values = ", ".join(_figure(label, pairs, first) for label, pairs in by_video.items())
            first = first or by_video
            print(f"| {name} | {way} | {values} | {spent:.3f} |", flush=True)


def _figure(label: str, pairs: dict[str, tuple[float, float]], first: dict[str, Any]) -> str:
    """Pooled over voxels; and by how much it is more than the first way's, on videos' mean."""
    total, count = np.sum(list(pairs.values()), 0)
    text = f"{label} {total / count:.4f}"
    if first:
        mean = lambda pairs: np.array([a / b for a, b in pairs.values() if b])
        more = mean(pairs) - mean(first[label])
        text += f" ({more.mean():+.4f} ± {more.std() / np.sqrt(len(more)):.4f})"
    return text


if __name__ == "__main__":
    main()
