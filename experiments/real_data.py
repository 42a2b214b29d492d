"""Real video for the experiments: packed small, unpacked once, and which videos make which set.

    python -m experiments.real_data --packed=DIR --output=DIR [--teachers]

PACKED holds H.264 videos of 180 lines (`davis_train`, `davis_val`, `clips_train`, `clips_test`),
`davis_masks.npz`, `people.npz` (what a teacher says), `camvid.npz` and `espnetv2.npz`; the output
has, for each source, `video.npy` (N,H,W,3), a file for every kind of labels and `index.json`, in
the layout that `RealVideos` reads. With --teachers it also asks ESPNetv2 for objects and Brox for
flow, for which an accelerator is good.

Every frame is scaled to cover 120×213 (16:9) and its middle is kept, so that shapes stay.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import io
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from v2v_jax.datasets import register_dataset
from v2v_jax.datasets.base.class_masks import OBJECT_NAMES
from v2v_jax.datasets.base.video_dataset import FIELDS, IGNORE_LABEL, VideoDataset, VideoInfo
from v2v_jax.media.video import VideoFile

FRAME_SIZE = (120, 213)
CAMVID_SIZE = (128, 171)
TEACHER_SIZE = (224, 384)  # of ESPNetv2's frames
LABEL_EVERY = 2  # frames from one that ESPNetv2 labels to the next
FLOW_FRAMES = 64  # of each clip that Brox's method labels
SOURCES = ("davis_train", "davis_val", "clips_train", "clips_test", "camvid")
TEACHERS_SEE = ("clips_train", "davis_train", "davis_val")  # the last to compare with alone
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
# Of DAVIS 2016: from YouTube, so not under its CC BY.
YOUTUBE = (
    *("breakdance", "dog-agility", "drift-chicane", "drift-straight", "drift-turn"),
    *("motocross-bumps", "motocross-jump", "parkour"),
)
# Six training sequences that validate; about as different as the test sequences are.
VALIDATION = ("boat", "bus", "flamingo", "horsejump-low", "surf", "train")
PEOPLE = (  # test sequences whose object is or has a person
    *("bmx-trees", "breakdance", "dance-twirl", "horsejump-high", "kite-surf", "motocross-jump"),
    *("paragliding-launch", "parkour", "scooter-black", "soapbox"),
)


def cover(frame: np.ndarray, size: tuple[int, int], nearest: bool = False) -> np.ndarray:
    """The middle of a frame (H,W[,3]) uint8, as large as fits, scaled to `size`."""
    h, w = frame.shape[:2]
    scale = max(size[0] / h, size[1] / w)
    high, wide = size[0] / scale, size[1] / scale
    top, left = (h - high) / 2, (w - wide) / 2
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    box = (left, top, left + wide, top + high)
    return np.asarray(Image.fromarray(frame).resize(size[::-1], method, box=box))


# ------------------------------------------------------------------------------------------------
# Reading what was unpacked


@dataclasses.dataclass(frozen=True)
class Part:
    """Some videos of a source, and which of its files are the labels ("" for none)."""

    source: str
    labels: str = ""
    names: tuple[str, ...] | None = None  # None: all
    without: tuple[str, ...] = ()
    frames: int = 10**9  # of each video, at most


@dataclasses.dataclass(frozen=True)
class Set:
    """What a network is trained on, chosen by and tested on."""

    train: tuple[Part, ...]
    validation: tuple[Part, ...]
    test: tuple[Part, ...]
    label_names: tuple[str, ...] = ()


class RealVideos(VideoDataset):
    """Videos of several sources, one after the other; a name is "source/video".

    Attributes: see `VideoDataset`.
    """

    name: ClassVar[str] = "real"

    def __init__(self, root: pathlib.Path, parts: Sequence[Part], label_names: Sequence[str] = ()):
        """root: what `unpack` wrote."""
        self.label_names = tuple(label_names)
        self.videos: list[VideoInfo] = []
        self._where: list[tuple[Part, int]] = []
        self._arrays: dict[tuple[str, str], np.ndarray] = {}
        fields = set(FIELDS)
        for part in parts:
            folder = root / part.source
            index = json.loads((folder / "index.json").read_text())
            here = {"video", *(["labels"] if part.labels else [])}
            if (root / "flow done").exists() and (folder / "flow.npy").exists():
                here |= {"flow", "flow_valid"}
            fields &= here
            files = {"labels": part.labels} if part.labels else {}
            for field in here:
                path = folder / f"{files.get(field, field)}.npy"
                self._arrays[part.source, field] = np.load(path, mmap_mode="r")
            first = 0
            for name, count in index:
                known = part.names is None or name in part.names
                if known and name not in part.without and min(count, part.frames) >= 16:
                    info = VideoInfo(f"{part.source}/{name}", min(count, part.frames))
                    self.videos.append(info)
                    self._where.append((part, first))
                first += count
        self.fields = tuple(field for field in FIELDS if field in fields)
        self.frame_size = tuple(self._arrays[parts[0].source, "video"].shape[1:3])

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`."""
        self.check_fields(fields)
        part, first = self._where[video]
        return {
            field: np.array(self._arrays[part.source, field][first + start : first + stop])
            for field in fields
        }

    def whole(self, video: int, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """All frames of a video."""
        return self.read(video, 0, self.videos[video].num_frames, fields)


def held_back_clips(names: Sequence[str]) -> tuple[str, ...]:
    """A tenth of the training clips, which validate, by the SHA-256 of their names."""
    from v2v_jax.datasets.base.held_back import held_back

    return tuple(sorted(held_back(names, 0.1, str)))


def sets(root: pathlib.Path) -> dict[str, Set]:
    """The sets by name; which clips may ship is in `licensed.json`, beside the sources."""
    clips = [name for name, _ in json.loads((root / "clips_train" / "index.json").read_text())]
    held = held_back_clips(clips)
    licensed = json.loads((root / "licensed.json").read_text())
    train = lambda **more: Part("clips_train", without=(*held, *TWINS), **more)
    davis = lambda **more: Part("davis_train", without=VALIDATION, **more)
    shipped = dict(names=tuple(licensed))
    free = tuple(sorted({*VALIDATION, *YOUTUBE}))
    chosen = (Part("clips_train", names=held), Part("davis_train", names=VALIDATION))
    tested = (Part("clips_test"), Part("davis_val"))
    with_labels = lambda parts, labels: tuple(
        dataclasses.replace(part, labels=labels) for part in parts
    )
    masks = dict(labels="masks")
    davis_held = (Part("davis_train", "masks", VALIDATION),)
    davis_test = (Part("davis_val", "masks"),)
    camvid = lambda start: (Part("camvid", "classes", names=_CAMVID[start]),)
    flow = dict(frames=FLOW_FRAMES)
    flow_chosen, flow_tested = (
        (Part("clips_train", names=held, **flow),),
        (Part("clips_test", **flow),),
    )
    return {
        "people": Set(
            (
                train(labels="persons", names=tuple(c for c in licensed if c not in NO_PERSON)),
                Part("davis_train", "persons", without=free),
            ),
            with_labels(chosen, "persons"),
            (Part("davis_val", "masks", names=PEOPLE),),
            ("background", "person"),
        ),
        "color shipped": Set((train(**shipped), Part("davis_train", without=free)), chosen, tested),
        "color": Set((train(), davis()), chosen, tested),
        "davis": Set((davis(**masks),), davis_held, davis_test, OBJECT_NAMES),
        "objects": Set(
            (train(labels="objects"), davis(**masks)), davis_held, davis_test, OBJECT_NAMES
        ),
        "flow": Set((train(**flow), davis(**flow)), flow_chosen, flow_tested),
        "flow shipped": Set(
            (train(**shipped, **flow), Part("davis_train", without=free, **flow)),
            flow_chosen,
            flow_tested,
        ),
        "camvid": Set(camvid("train"), camvid("val"), camvid("test"), CAMVID_CLASSES),
    }


# What the teacher of people takes for persons here is a bowl and a cup.
NO_PERSON = ("TencentARC+ST-LLM__cooking", "lixirui142+VidToMe__tea-pour")
# A training clip of the same room as a test clip: left out of training.
TWINS = ("facebookresearch+sam2__bedroom",)
_CAMVID = {
    "train": ("train_0001TP", "train_0006R0", "train_0016E5"),
    "val": ("val_0016E5",),
    "test": ("test_0001TP", "test_Seq05VD"),
}


def open_real(options: Mapping[str, Any], split: str, frame_size: tuple[int, int]) -> RealVideos:
    """Of `register_dataset`; the training split holds what validates, too."""
    root = pathlib.Path(options["root"])
    chosen = sets(root)[options["set"]]
    parts = chosen.test if split == "test" else chosen.train + chosen.validation
    return RealVideos(root, parts, chosen.label_names)


def validating(root: pathlib.Path, name: str) -> str:
    """`config.data.validation` of a set."""
    chosen = sets(root)[name]
    return ",".join(info.name for info in RealVideos(root, chosen.validation).videos)


register_dataset("real", open_real, options=dict(root="", set=""), feed="device")


# ------------------------------------------------------------------------------------------------
# Unpacking


def decoded(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Frames (H,W,3) uint8 RGB."""
    yield from VideoFile(path).stream()


def _one(job: tuple[pathlib.Path, str, np.ndarray | None, np.ndarray | None]) -> dict[str, Any]:
    """Arrays of one video: frames, those for the teacher, masks, the teacher of people's answer."""
    path, source, masks, people = job
    video, large, labels = [], [], []
    for t, frame in enumerate(decoded(path)):
        video.append(cover(frame, FRAME_SIZE))
        every = 1 if source == "davis_val" else LABEL_EVERY
        if source in TEACHERS_SEE and t % every == 0:
            large.append(cover(frame, TEACHER_SIZE))
        if masks is not None:
            bits = np.unpackbits(masks[t], axis=-1)[:, : frame.shape[1]]
            labels.append(cover(bits, FRAME_SIZE, nearest=True))
    result = {"video": np.stack(video)}
    if large:
        result["large"] = np.stack(large)
    if labels:
        result["masks"] = np.stack(labels)
    if people is not None:
        result["people"] = unpack_labels(people)[: len(video)]
    return result


def pack_labels(labels: np.ndarray) -> np.ndarray:
    """(T,H,W) of 0, 1 and 255 → (2,T,H,⌈W/8⌉) bits."""
    return np.packbits(np.stack([labels == 1, labels == IGNORE_LABEL]), axis=-1)


def unpack_labels(bits: np.ndarray) -> np.ndarray:
    """The inverse of `pack_labels`, for frames of `FRAME_SIZE`."""
    one, unknown = np.unpackbits(bits, axis=-1)[..., : FRAME_SIZE[1]]
    return np.where(unknown, IGNORE_LABEL, one).astype(np.uint8)


def unpack(
    packed: pathlib.Path, output: pathlib.Path, source: str, pool: concurrent.futures.Executor
) -> None:
    """Writes one source's arrays."""
    folder = output / source
    folder.mkdir(parents=True, exist_ok=True)
    masks, people = (
        np.load(packed / name) if (packed / name).exists() else {}
        for name in ("davis_masks.npz", "people.npz")
    )
    jobs = []
    for path in sorted((packed / source).glob("*.mp4")):
        key = f"{source}/{path.stem}"
        mask = masks[path.stem] if source.startswith("davis") else None
        jobs.append((path, source, mask, people[key] if key in people else None))
    videos = list(pool.map(_one, jobs))
    names = [job[0].stem for job in jobs]
    _write(folder, names, videos)


def _write(folder: pathlib.Path, names: Sequence[str], videos: Sequence[Mapping]) -> None:
    for field in videos[0]:
        np.save(folder / f"{field}.npy", np.concatenate([v[field] for v in videos]))
    index = [(name, len(v["video"])) for name, v in zip(names, videos)]
    (folder / "index.json").write_text(json.dumps(index))


def unpack_camvid(packed: pathlib.Path, output: pathlib.Path) -> None:
    """CamVid, at a size of its own."""
    folder = output / "camvid"
    folder.mkdir(parents=True, exist_ok=True)
    stored, videos, names = np.load(packed / "camvid.npz"), [], []
    for key in sorted(stored.files):
        name, kind = key.split("/")
        if kind != "n":
            continue
        ends = np.cumsum(stored[key])
        data = stored[f"{name}/jpg"].tobytes()
        starts = [0, *ends[:-1]]
        frames = [Image.open(io.BytesIO(data[a:b])) for a, b in zip(starts, ends)]
        labels = stored[f"{name}/labels"]
        labels = np.where(labels < len(CAMVID_CLASSES), labels, IGNORE_LABEL).astype(np.uint8)
        videos.append({"video": np.stack([np.asarray(f) for f in frames]), "classes": labels})
        names.append(name)
    _write(folder, names, videos)


def sure(probability: np.ndarray) -> np.ndarray:
    """Labels of probabilities 0..255: 255 where the teacher leans to neither side."""
    labels = (probability > 127).astype(np.uint8)
    labels[(probability > 89) & (probability < 166)] = IGNORE_LABEL
    return labels


def main(argv: list[str] | None = None) -> None:
    """Unpacks, and labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packed", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument(
        "--teachers",
        nargs="?",
        const="objects,flow,motion",
        help="nothing else, when all is there; some of them, with commas",
    )
    args = parser.parse_args(argv)
    start = time.perf_counter()
    said = lambda what: print(f"{what}: {time.perf_counter() - start:.1f} s", flush=True)
    if args.teachers:
        from experiments.real_teachers import (
            ask_espnet,
            label_flow,
            label_objects,
            motion_of_objects,
        )

        asked = args.teachers.split(",")
        if "objects" in asked:
            ask_espnet(args.packed, args.output)
            label_objects(args.output)
            (args.output / "objects done").touch()
            said("objects")
        if "flow" in asked:
            for source in ("clips_test", "davis_train", "clips_train"):
                label_flow(args.output, source)
            (args.output / "flow done").touch()
            said("flow")
        if "motion" in asked:
            for source in ("davis_val", "davis_train"):
                motion_of_objects(args.output, source)
            (args.output / "motion done").touch()
            said("motion")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    text = (args.packed / "licensed.json").read_text()
    (args.output / "licensed.json").write_text(text)
    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:  # nearly all is C code
        for source in args.sources.split(","):
            if source == "camvid":
                unpack_camvid(args.packed, args.output)
            else:
                unpack(args.packed, args.output, source, pool)
            said(source)
    (args.output / "done").touch()


if __name__ == "__main__":
    main()
