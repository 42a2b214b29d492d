"""What is fuzzed: the readers of files that come from elsewhere, each with files to begin from.

A target takes arbitrary bytes, puts them where its reader expects a file, and reads. It may raise
nothing but what the reader documents. `tests/fuzz/test_fuzz.py` mutates the files by hypothesis;
`tests/fuzz/run.py` by atheris, guided by coverage.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Callable

import av
import numpy as np
from PIL import Image

from v2v_jax import pretrained
from v2v_jax.cli import config_options
from v2v_jax.datasets.base.class_masks import object_mask
from v2v_jax.datasets.readers import davis, frame_folder, ucf101
from v2v_jax.errors import CheckpointError, ConfigError, DataError, WeightsError
from v2v_jax.inference import export
from v2v_jax.media import flow_files, label_files
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import VideoFile, VideoStream, write_video
from v2v_jax.media.video_writer import VideoWriter
from v2v_jax.run import manifest, metrics_log, recipes, weight_file
from v2v_jax.system.npy import array_of
from v2v_jax.system.sealed_archive import write_sealed


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
      read: (bytes, an empty folder that it may use) → reads them.
      seeds: (an empty folder) → files to be mutated.
      errors: what `read` may raise.
      valid: whether the first seed is a file that the reader takes.
    """

    read: Callable[[bytes, pathlib.Path], object]
    seeds: Callable[[pathlib.Path], list[bytes]]
    errors: tuple[type[Exception], ...]
    valid: bool = True


# ------------------------------------------------------------------------------------------------
# Flow files, pictures, videos


def _flow(extension: str) -> Target:
    def read(data, folder):
        path = folder / f"x{extension}"
        path.write_bytes(data)
        flow, valid = flow_files.read_flow(path)
        assert flow.shape == (*valid.shape, 2) and np.isfinite(flow).all()

    def seeds(folder):
        path = folder / f"seed{extension}"
        flow = np.linspace(-3, 3, 60, dtype=np.float32).reshape(5, 6, 2)
        flow_files.write_flow(path, flow, np.arange(30).reshape(5, 6) % 7 > 0)
        return [path.read_bytes()]

    return Target(read, seeds, (DataError,))


def _picture_bytes(mode: str, kind: str, exif: bool = False) -> bytes:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).convert(mode)
    buffer = io.BytesIO()
    options = {}
    if exif:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6  # lies on its side
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _read_frame(data: bytes, folder: pathlib.Path) -> None:
    frame = Picture(data, "x").frame((4, 5))
    assert frame.shape == (4, 5, 3) and frame.dtype == np.uint8


def _read_mask(data: bytes, folder: pathlib.Path) -> None:
    mask = object_mask(Picture(data, "x"), (6, 8), (4, 5))
    assert mask.shape == (4, 5) and set(np.unique(mask)) <= {0, 1, 255}


def _read_video(data: bytes, folder: pathlib.Path) -> None:
    path = folder / "x.avi"
    path.write_bytes(data)
    video = VideoFile(path)
    frames = video.read(0, min(video.num_frames, 3), (16, 16))
    assert frames.shape[1:] == (16, 16, 3)


def _video_seeds(folder: pathlib.Path) -> list[bytes]:
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
    write_video(folder / "seed.mp4", frames)
    seeds = [(folder / "seed.mp4").read_bytes()]
    for name, codec in (("seed.avi", "mpeg4"), ("seed.mkv", "mjpeg"), ("seed.ts", "mpeg4")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width = stream.height = 16
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for array in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode(None))
        seeds.append((folder / name).read_bytes())
    return seeds


def _read_stream(data: bytes, folder: pathlib.Path) -> None:
    """As prediction reads: to the end, with times that ascend."""
    path = folder / "x.ts"
    path.write_bytes(data)
    stream = VideoStream(path)
    for number, frame in enumerate(stream):
        assert frame.dtype == np.uint8 and frame.shape[2] == 3
        if number == 10:
            break
    begins = [shown.begin for shown in stream.times]
    assert all(before < after for before, after in zip(begins, begins[1:]))


def _read_sound(data: bytes, folder: pathlib.Path) -> None:
    """Whatever the sound is, the video beside it is written."""
    (folder / "sound").write_bytes(data)
    with VideoWriter(folder / "out.mp4", 25, sound_of=folder / "sound") as writer:
        for _ in range(4):
            writer.add(np.zeros((16, 16, 3), np.uint8))
        writer.finish()
    with av.open(str(folder / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


def _sound_seeds(folder: pathlib.Path) -> list[bytes]:
    seeds = []
    kinds = ("mp4", "aac"), ("mp3", "libmp3lame"), ("wav", "pcm_s16le"), ("mkv", "flac")
    for extension, codec in kinds:
        path = folder / f"seed.{extension}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=48000, layout="mono")
            kind = stream.codec_context.format
            zeros = np.zeros(
                (1, 9600), {"flt": "f4", "s16": "i2", "s32": "i4"}[kind.name.removesuffix("p")]
            )
            frame = av.AudioFrame.from_ndarray(zeros, format=kind.name, layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        seeds.append(path.read_bytes())
    return seeds


# ------------------------------------------------------------------------------------------------
# Networks and labels


def _read_export(data: bytes, folder: pathlib.Path) -> None:
    (folder / "x.v2v").write_bytes(data)
    export.read_export(folder / "x.v2v")


def _read_export_record(data: bytes, folder: pathlib.Path) -> None:
    """A record in an archive whose sum is right."""
    write_sealed(folder / "x.v2v", {"about.json": data, "network.bin": bytes(8)})
    export.read_export(folder / "x.v2v")


_RECORD = {"format": 1, "version": "1", "jax": "0", "clip": [8, 16, 16], "step": 3}
_RECORD |= {
    "about": {
        "task": "color",
        "task_options": {},
        "model": {"name": "v2v"},
        "preprocessing": {"crop_size": [16, 16], "std": [60.0, 60.0, 60.0]},
    }
}


def _export_seeds(folder: pathlib.Path) -> list[bytes]:
    seeds = []
    for compress in (False, True):
        members = {"about.json": json.dumps(_RECORD).encode(), "weights/a/kernel.npy": bytes(99)}
        write_sealed(folder / "seed", {**members, "network.bin": bytes(50)}, compress=compress)
        seeds.append((folder / "seed").read_bytes())
    return seeds


def _read_weight_file(data: bytes, folder: pathlib.Path) -> None:
    (folder / "x").write_bytes(data)
    weight_file.is_weights(folder / "x")
    weight_file.read_weights(folder / "x")


def _weight_file_seeds(folder: pathlib.Path) -> list[bytes]:
    params = {"conv1a": {"kernel": np.ones((3, 3, 3, 3, 2), "f4"), "bias": np.ones(2, "f4")}}
    seeds = []
    for bits in (8, 16, 32):
        stored = weight_file.StoredWeights(params, _RECORD["about"], 3, bits)
        weight_file.write_weights(folder / "seed", stored)
        seeds.append((folder / "seed").read_bytes())
    return seeds


def _npy_seeds(folder: pathlib.Path) -> list[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype="f4").reshape(2, 3))
    return [buffer.getvalue()]


def _read_label_set(data: bytes, folder: pathlib.Path) -> None:
    (folder / label_files.SET).write_bytes(data)
    label_files.read_set(folder)


def _read_label_info(data: bytes, folder: pathlib.Path) -> None:
    (folder / "zarr.json").write_bytes(data)
    label_files.read_info(folder)


def _label_info_seeds(folder: pathlib.Path) -> list[bytes]:
    info = label_files.LabelInfo(
        teacher="t", parameters={}, video_bytes=1, video_sha256="0", num_frames=3,
        video_size=(8, 9), size=(8, 9),
    )  # fmt: skip
    writer = label_files.LabelWriter(str(folder / "seed"), info)
    for _ in range(2):
        writer.append(np.zeros((1, 8, 9, 2), np.int16))
    writer.finish()
    return [(folder / "seed" / "zarr.json").read_bytes()]


# ------------------------------------------------------------------------------------------------
# Lists, command lines, what a run writes and reads again


def _read_ucf101_list(data: bytes, folder: pathlib.Path) -> None:
    """A list, over a dataset of one (empty) video whose folder has secrets beside it."""
    root = folder / "root"
    videos = root / "UCF-101" / "YoYo"
    videos.mkdir(parents=True, exist_ok=True)
    (root / "ucfTrainTestlist").mkdir(exist_ok=True)
    (videos / "v_YoYo_g08_c01.avi").touch()
    (root / "secret.avi").touch()
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_bytes(data)
    entries = list(ucf101._read_list(str(path)))
    for found in ucf101._find_files(str(root / "UCF-101"), entries):
        assert found is None or pathlib.Path(found) == videos / "v_YoYo_g08_c01.avi", found


def _read_davis_list(data: bytes, folder: pathlib.Path) -> None:
    root = folder / "root"
    frames = root / "JPEGImages" / "480p"
    (frames / "bear").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "2017" / "train.txt").write_bytes(data)
    names = davis._split_sequences(str(root), str(frames), "train", None)
    assert set(names) <= {"bear"}, names


def _read_folder_list(data: bytes, folder: pathlib.Path) -> None:
    (folder / "train.txt").write_bytes(data)
    names = frame_folder._split(str(folder), ["bear", "boat"], "train", None)
    assert set(names) <= {"bear", "boat"}, names


def _read_classes(data: bytes, folder: pathlib.Path) -> None:
    (folder / frame_folder._TABLES[0]).write_bytes(data)
    assert 2 <= len(frame_folder._read_classes(str(folder)).names) <= 255


def _read_weights(data: bytes, folder: pathlib.Path) -> None:
    path = folder / "weights"
    path.write_bytes(data)
    pretrained.load_c3d(path)


def _weights_seeds(folder: pathlib.Path) -> list[bytes]:
    """Narrow ones, which are taken: true ones have 100 MB."""
    arrays = {
        "conv1a/kernel": np.zeros((3, 3, 3, 3, 2), np.float32),
        "conv1a/bias": np.zeros(2, np.float32),
    }
    seeds = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        seeds.append(buffer.getvalue())
    # A pickle that runs code when it is loaded; a layer of a Caffe model.
    return [*seeds, b"cposix\nsystem\n(S'exit 1'\ntR.", b"\n\x03c3d\x12\x08\n\x06conv1a"]


def _read_recipe(data: bytes, folder: pathlib.Path) -> None:
    options = recipes.parse_arg(data.decode(errors="replace"))
    assert options.dataset in recipes.choices()["dataset"]


def _read_overrides(data: bytes, folder: pathlib.Path) -> None:
    """Overrides on the command line: lines that begin with --config."""
    words = data.decode(errors="replace").split("\n")
    config = config_options.read("seg", [f"--config.{word}" for word in words])
    recipes.validate(config)


def _read_manifest(data: bytes, folder: pathlib.Path) -> None:
    (folder / manifest.NAME).write_bytes(data)
    manifest.verify(folder, "title")


def _manifest_seeds(folder: pathlib.Path) -> list[bytes]:
    manifest.write(folder, "title")
    return [(folder / manifest.NAME).read_bytes()]


def _read_metrics(data: bytes, folder: pathlib.Path) -> None:
    (folder / "metrics.jsonl").write_bytes(data)
    metrics_log._drop_later_lines(folder / "metrics.jsonl", 3, False)


_text = lambda *texts: lambda folder: [text.encode() for text in texts]

TARGETS: dict[str, Target] = {
    "flo": _flow(".flo"),
    "kitti_png": _flow(".png"),
    "pfm": _flow(".pfm"),
    "frame": Target(
        _read_frame,
        lambda folder: [
            _picture_bytes("RGB", "JPEG"),
            _picture_bytes("P", "PNG"),
            *(_picture_bytes("RGB", kind) for kind in ("TIFF", "BMP", "PPM", "WEBP")),
            _picture_bytes("I;16", "TIFF"),
            _picture_bytes("RGB", "JPEG", exif=True),
        ],
        (DataError,),
    ),
    "mask": Target(
        _read_mask,
        lambda folder: [
            *(_picture_bytes(mode, "PNG") for mode in ("P", "L", "LA", "1", "I;16", "RGBA")),
            *(_picture_bytes(mode, "TIFF") for mode in ("P", "I;16", "RGB")),
            _picture_bytes("L", "PPM"),
            b"P2 8 6 3\n" + b"0 1 2 3 " * 12,
        ],
        (DataError,),
    ),
    "video": Target(_read_video, _video_seeds, (DataError,)),
    "stream": Target(_read_stream, _video_seeds, (DataError,)),
    "sound": Target(_read_sound, _sound_seeds, ()),
    "export": Target(_read_export, _export_seeds, (CheckpointError,), valid=False),
    "export_record": Target(
        _read_export_record,
        lambda folder: [json.dumps(_RECORD).encode()],
        (CheckpointError,),
        valid=False,
    ),
    "weight_file": Target(_read_weight_file, _weight_file_seeds, (CheckpointError,)),
    "npy": Target(lambda data, folder: array_of(data), _npy_seeds, (ValueError,)),
    "label_set": Target(_read_label_set, _text('{"field": "flow", "teacher": "t"}'), (DataError,)),
    "label_info": Target(_read_label_info, _label_info_seeds, (DataError,)),
    "ucf101_list": Target(
        _read_ucf101_list,
        _text("YoYo/v_YoYo_g08_c01.avi 1\r\n", "../secret.avi\n", "YoYo/../../secret.avi 2\n"),
        (DataError,),
    ),
    "davis_list": Target(
        _read_davis_list,
        _text("bear\n", "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n", ".."),
        (DataError,),
    ),
    "folder_list": Target(_read_folder_list, _text("bear\nboat\n", "../bear"), (DataError,)),
    "classes": Target(_read_classes, _text("0 0 0 a\n1 2 3 b\n"), (DataError,)),
    "weights": Target(_read_weights, _weights_seeds, (WeightsError,)),
    "recipe": Target(
        _read_recipe, _text("demo,dataset=scenes,model=v2v", "size=small"), (ConfigError,)
    ),
    "overrides": Target(
        _read_overrides,
        _text("batch_size=8\nmodel.width=0.5", "preprocessing.crop_size=(32,32)", "data=3"),
        (ConfigError,),
    ),
    "manifest": Target(_read_manifest, _manifest_seeds, (manifest.Damaged,)),
    "metrics": Target(_read_metrics, _text('{"step": 3, "train/loss": 0.5}\n[1]\n3\n"x"\n'), ()),
}


def run_once(target: Target, data: bytes, folder: pathlib.Path) -> bool:
    """Reads once; whether the reader took it. Any error but those documented passes."""
    try:
        target.read(data, folder)
    except target.errors as error:
        assert str(error).strip() and len(str(error)) < 20_000
        return False
    return True
