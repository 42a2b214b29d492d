"""Packs real videos small enough to be carried to an accelerator, with what a CPU's teacher says.

    python -m experiments.real_pack --data=data --output=data/packed

DATA holds `davis2016`, `clips` (train/, test/ and manifest.tsv), `camvid` and `teachers`, as
docs/results/real_video.md describes them. Written are videos of 180 lines in H.264, DAVIS's masks
as bits, CamVid at 128×171, ESPNetv2's numbers, what the teacher of people (a model of TensorFlow
Lite) takes for persons in the training videos, and which clips' licences let weights be shipped.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import pathlib
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image

from experiments import espnetv2
from experiments.real_data import CAMVID_SIZE, FRAME_SIZE, cover, pack_labels, sure
from v2v_jax.datasets.base.resizing import resize_nearest
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.labelling.tflite_teacher import tflite_teacher
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import read_video

LICENCES = ("Apache", "MIT", "BSD", "Creative Commons")  # that let weights be shipped
# Source → constant rate factor, and the most frames of a video, from its middle.
QUALITY = {"davis_train": 21, "davis_val": 18, "clips_train": 23, "clips_test": 19}
FRAMES = {"clips_train": 128, "clips_test": 64}


def encode(path: pathlib.Path, frames: np.ndarray, quality: int) -> None:
    """Writes (T,H,W,3) uint8 RGB as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(quality), "preset": "slow"}
        for frame in frames[:, : stream.height, : stream.width]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def videos(data: pathlib.Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """(source, name, frames (T,H,W,3), masks (T,H,W) bool or None) of all."""
    for source, split in (("davis_train", "train"), ("davis_val", "test")):
        dataset = Davis(data / "davis2016", split)
        for number, info in enumerate(dataset.videos):
            frames = np.stack(list(dataset.native_frames(number)))
            yield source, info.name, frames, dataset.native_masks(number) == 1
    for split in ("train", "test"):
        source = f"clips_{split}"
        for path in sorted((data / "clips" / split).glob("*.mp4")):
            frames, _ = read_video(path)
            start = max(0, (len(frames) - FRAMES[source]) // 2)
            yield source, path.stem, frames[start : start + FRAMES[source]], None


def pack_camvid(root: pathlib.Path, path: pathlib.Path) -> None:
    """ "video/n", "video/jpg" and "video/labels" of every folder."""
    arrays = {}
    for folder in sorted((root / "images").iterdir()):
        files, labels = [], []
        for picture in sorted(folder.iterdir()):
            stream = io.BytesIO()
            frame = Image.fromarray(Picture(str(picture)).frame(CAMVID_SIZE))
            frame.save(stream, "JPEG", quality=85)
            files.append(stream.getvalue())
            mask = root / "labels" / folder.name / f"{picture.stem}.png"
            labels.append(resize_nearest(Picture(str(mask)).numbers(), CAMVID_SIZE))
        arrays[f"{folder.name}/n"] = np.array([len(file) for file in files])
        arrays[f"{folder.name}/jpg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{folder.name}/labels"] = np.stack(labels)
    np.savez_compressed(path, **arrays)


def licensed(manifest: pathlib.Path) -> list[str]:
    """The training clips whose repository's licence is one of `LICENCES`."""
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    free = lambda row: any(name in row["licence"] for name in LICENCES)
    return sorted(row["clip"] for row in rows if row["split"] == "train" and free(row))


def main(argv: list[str] | None = None) -> None:
    """Writes everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    teachers = args.data / "teachers"
    people_teacher = tflite_teacher(str(teachers / "selfie_segmentation.tflite"))
    masks, people = {}, {}
    for source, name, frames, truth in videos(args.data):
        encode(args.output / source / f"{name}.mp4", frames, QUALITY[source])
        if truth is not None:
            masks[name] = np.packbits(truth, axis=-1)
        if source.endswith("train"):
            codes, _ = people_teacher.encoded(frames, 1.0)  # (T,H,W,2), of background and person
            labels = [sure(cover(frame[..., 1], FRAME_SIZE)) for frame in codes]
            people[f"{source}/{name}"] = pack_labels(np.stack(labels))
        print(source, name, len(frames), flush=True)
    np.savez_compressed(args.output / "davis_masks.npz", **masks)
    np.savez_compressed(args.output / "people.npz", **people)
    state = espnetv2.read_state(teachers / "espnetv2_s_2.0_pascal_384x384.pth")
    np.savez_compressed(args.output / "espnetv2.npz", **state)
    pack_camvid(args.data / "camvid", args.output / "camvid.npz")
    names = licensed(args.data / "clips" / "manifest.tsv")
    (args.output / "licensed.json").write_text(json.dumps(names))


if __name__ == "__main__":
    main()
