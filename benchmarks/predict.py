"""Whether reading, network and writing overlap: each alone, then predict.py's whole, in one run.

    python -m benchmarks.predict --checkpoint=runs/seg                    (a made-up video)
    python -m benchmarks.predict --checkpoint=runs/seg --video=in.mp4
    python -m benchmarks.predict --random=1.0                             (an untrained network)

The whole would take as long as the slowest of the three if nothing but that one limited it. Each is
timed on the same frames, after everything is compiled, `--repeats` times; the quickest counts. The
parts are those that predict.py is made of, each with the threads that it has there:

    decoding   frames of the file, RGB, and the same at the network's scale
    network    frames in memory, already at hand → labels of the video's size in memory
    encoding   frames and labels in memory → overlay, H.264
    whole      predict_to_files, from file to file

Prints a table in Markdown and writes the figures as JSON (--output).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

import v2v_jax
from v2v_jax.inference.network import TrainedNetwork
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.inference.views import Drawing
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.media.frame_sources import FrameResizer, FrameSource, open_source
from v2v_jax.media.video import VideoStream
from v2v_jax.media.video_writer import PRESET, Preset, VideoWriter
from v2v_jax.system.background import in_background
from v2v_jax.tasks import Segmentation, Task


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoint", help="a run's folder, or an exported file")
    add("--random", type=float, metavar="WIDTH", help="instead: random weights, of this width")
    add("--video", help="default: a made-up one")
    add("--frames", type=int, default=2000, help="of the made-up video (default: %(default)s)")
    add("--size", default="240x320", help="HxW of the made-up video (default: %(default)s)")
    add("--repeats", type=int, default=3)
    add("--batch_size", type=int, help="windows a call of the network")
    add("--overlap", type=float, default=0.25)
    add("--output", default="predict.json")
    options = parser.parse_args(argv)
    if (options.checkpoint is None) == (options.random is None):
        parser.error("one of --checkpoint and --random is needed")
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or made_up_video(folder, options.frames, options.size)
        network = random_network(options.random) if options.random else None
        make = v2v_jax.load if network is None else Predictor
        predictor = make(
            network or options.checkpoint, batch_size=options.batch_size, overlap=options.overlap
        )
        result = _measure(predictor, video, folder, options.repeats)
    pathlib.Path(options.output).write_text(json.dumps(result, indent=2) + "\n")
    print(_table(result))


def _measure(predictor: Predictor, video: str, folder: str, repeats: int) -> dict[str, object]:
    frames = list(VideoStream(video))
    source = lambda: FrameSource(iter(frames), "memory", 25.0, len(frames))
    chunks = list(predictor.chunks(source()))  # compiles, too
    out = os.path.join(folder, "out.mp4")
    output = parse_output(out, predictor.network.task)
    size = predictor.scaled_size(frames[0].shape[:2])

    def decode() -> None:
        resize = FrameResizer(size)
        for frame in in_background(iter(VideoStream(video)), 16):
            resize(frame)

    def network() -> None:
        for _ in predictor.chunks(source()):
            pass

    def encode() -> None:
        draw_and_encode(predictor, chunks, out)

    def whole() -> None:
        predict_to_files(predictor, open_source(video), output)

    seconds = {
        part.__name__: min(_time(part) for _ in range(repeats))
        for part in (decode, network, encode, whole)
    }
    slowest = max(seconds[name] for name in ("decode", "network", "encode"))
    h, w, _ = frames[0].shape
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "video": f"{len(frames)} frames of {h}x{w}",
        "task": predictor.task,
        "fps": {name: len(frames) / value for name, value in seconds.items()},
        "whole_of_slowest": slowest / seconds["whole"],
    }


def draw_and_encode(
    predictor: Predictor, chunks: list[Chunk], path: str, preset: Preset = PRESET
) -> None:
    """Draws and encodes chunks as `predict_to_files` does."""
    drawing = Drawing(predictor.network.task, "overlay", legend=True)
    with VideoWriter(path, preset=preset) as writer:
        for frames in in_background(map(drawing.draw, chunks), 2):
            for frame in frames:
                writer.add(frame)
        writer.finish()


def _time(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def made_up_video(folder: str, count: int, size: str) -> str:
    """Textured squares that move over a texture that moves: as hard to code as a real scene."""
    h, w = map(int, size.split("x"))
    path = os.path.join(folder, "in.mp4")
    with VideoWriter(path) as writer:
        for frame in made_up_frames(count, h, w):
            writer.add(frame)
        writer.finish()
    return path


def made_up_frames(count: int, h: int, w: int, seed: int = 0) -> Iterator[np.ndarray]:
    """(h,w,3) uint8 RGB, see `made_up_video`."""
    rng = np.random.default_rng(seed)
    ground = _texture(rng, h + 256, w + 256)
    squares = [_texture(rng, h // 4, h // 4) for _ in range(6)]
    for t in range(count):
        top, left = (int(128 + 127 * np.sin(t / period)) for period in (71, 53))
        frame = ground[top : top + h, left : left + w].copy()
        for number, square in enumerate(squares):
            y = int((h - h // 4) * (0.5 + 0.5 * np.sin(t / (31 + 7 * number) + number)))
            x = int((w - h // 4) * (0.5 + 0.5 * np.cos(t / (23 + 5 * number) + number)))
            frame[y : y + h // 4, x : x + h // 4] = square
        yield frame


def _texture(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """(h,w,3) uint8: noise with the 1/f spectrum of natural pictures."""
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)) + 1 / max(h, w)
    spectrum = np.fft.rfft2(rng.normal(size=(3, h, w))) / frequency
    noise = np.fft.irfft2(spectrum, (h, w))
    scaled = 127 + 50 * noise / noise.std(axis=(1, 2), keepdims=True)
    return np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def random_network(width: float, task: Task | None = None) -> TrainedNetwork:
    """An untrained V2V, for eight classes or another task: as quick as a trained one."""
    from v2v_jax.models import V2V

    preprocessing = Preprocessing()
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    task = task or Segmentation(tuple(f"class {n}" for n in range(8)))
    model = V2V(task.num_outputs, width=width, dtype=dtype)
    clip = jax.ShapeDtypeStruct((1, preprocessing.clip_length, *preprocessing.crop_size, 3), "f4")
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: _random(rng, x.shape), shapes)

    def apply(params, video):
        return task.blendable(model.apply({"params": params}, preprocessing.normalize(video)))

    return TrainedNetwork(apply, params, task, preprocessing)


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of one layer: kernels (T,H,W,in,out) that keep the size of what goes through them."""
    scale = (2 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.0
    return (scale * rng.standard_normal(shape, np.float32)).astype(np.float32)


def _table(result: dict) -> str:
    lines = [
        f"{result['device']} ({result['processor']}), JAX {result['jax']}, {result['date']}; "
        f"{result['task']}, {result['video']}",
        "",
        "| part | frames/s |",
        "|---|---|",
        *(f"| {name} | {fps:.0f} |" for name, fps in result["fps"].items()),
        "",
        f"The whole runs at {100 * result['whole_of_slowest']:.0f} % of its slowest part alone.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
