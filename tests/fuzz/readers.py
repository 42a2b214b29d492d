"""What is fuzzed: the readers of files that come from elsewhere, each with files to begin from.

A target takes arbitrary bytes, puts them where its reader expects a file, and reads. It may raise
nothing but what the reader documents. `tests/fuzz/test_fuzz.py` mutates the files by hypothesis;
`tests/fuzz/run.py` by atheris, guided by coverage.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from v2v_jax import pretrained
from v2v_jax.cli import config_options
from v2v_jax.datasets.base.class_masks import object_mask
from v2v_jax.datasets.readers import davis, frame_folder, ucf101
from v2v_jax.errors import ConfigError, DataError, WeightsError
from v2v_jax.media import flow_files
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import VideoFile, write_video
from v2v_jax.run import manifest, metrics_log, recipes


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
    import av

    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
    write_video(folder / "seed.mp4", frames)
    seeds = [(folder / "seed.mp4").read_bytes()]
    for name, codec in (("seed.avi", "mpeg4"), ("seed.mkv", "mjpeg")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width = stream.height = 16
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for array in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode(None))
        seeds.append((folder / name).read_bytes())
    return seeds


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
