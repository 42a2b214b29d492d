"""What a type checker must see of the package's public names; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_type

import jax
import numpy as np
from ml_collections import ConfigDict

import v2v_jax


def predicts(path: str, video: np.ndarray) -> np.ndarray:
    predictor = v2v_jax.load(
        path, scale="native", overlap=0.5, full_frame=False, batch_size=None, dtype="float32"
    )
    assert_type(predictor, v2v_jax.Predictor)
    assert_type(predictor.stream(video), Iterator[np.ndarray])
    v2v_jax.load(path, scale="double")  # type: ignore[arg-type]
    v2v_jax.load(path, overlaps=0.5)  # type: ignore[call-arg]
    return predictor(video)


def reads_and_writes(path: str) -> None:
    flow, valid = v2v_jax.read_flow(path)
    assert_type(flow, np.ndarray)
    v2v_jax.write_flow(path, flow, valid)
    v2v_jax.write_flow(path, flow, valid=None)
    frames, fps = v2v_jax.read_video(path)
    v2v_jax.write_video(path, frames, fps)
    v2v_jax.write_flow(flow, path)  # type: ignore[arg-type]


def networks(clip: jax.Array) -> None:
    networks = (
        v2v_jax.V2V(num_outputs=8, width=0.5, temporal=True),
        v2v_jax.C3D(num_classes=101),
        v2v_jax.ConvUp("conv3b", num_outputs=2),
    )
    for network in networks:
        network.init(jax.random.key(0), clip)
    v2v_jax.V2V(outputs=8)  # type: ignore[call-arg]
    assert_type(v2v_jax.brox_flow(clip[..., 0], clip[..., 0], alpha=0.1), jax.Array)
    v2v_jax.load_c3d("c3d.pickle")["conv1a"]["kernel"].astype(np.float32)


class Printing(v2v_jax.Callback):
    def evaluated(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        print(step, values["accuracy"], len(pictures))


def trains(config: ConfigDict) -> float:
    v2v_jax.train(v2v_jax.read_config("seg:demo"), "runs/x", callbacks=[Printing()])
    v2v_jax.train("seg:demo", "runs/x", [Printing])  # type: ignore[list-item]
    return v2v_jax.train(config, "runs/x")["accuracy"]


class Brightness(v2v_jax.Task):
    name = "brightness"
    fields = ("video",)
    num_outputs = 1

    def target(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        video = batch["video"].mean(-1, keepdims=True) / 255
        return video, batch["mask"][:, None, None, None]


class Squares(v2v_jax.VideoDataset):
    name = "squares"

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        return {"video": np.zeros((stop - start, *self.frame_size, 3), np.uint8)}


def open_squares(
    options: Mapping[str, Any], split: str, frame_size: tuple[int, int]
) -> v2v_jax.VideoDataset:
    return Squares()


assert_type(v2v_jax.register_task(Brightness), type[Brightness])
v2v_jax.register_dataset("squares", open_squares, options={"count": 3}, feed="device")
v2v_jax.register_dataset("squares", open_squares, feed="disk")  # type: ignore[arg-type]
print(v2v_jax.no_such_name)  # type: ignore[attr-defined]
