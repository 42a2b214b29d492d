"""MPI-Sintel's tree on disk, tiny."""

from pathlib import Path

import numpy as np
from PIL import Image

from v2v_jax.media.flow_files import write_flow

H, W = 24, 40


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make_sequence(
    root: Path, name: str, numbers=range(1, 18), flows=None, passes=("clean", "final")
) -> None:
    """Frame k is grey 5k (final: 5k + 2); its flow (k, -k) is invalid in the upper quarter and
    occluded in the left half."""
    training = root / "training"
    for render_pass in passes:
        for k in numbers:
            value = 5 * k + 2 * (render_pass == "final")
            path = training / render_pass / name / f"frame_{k:04d}.png"
            save(path, np.full((H, W, 3), value, np.uint8))
    for k in list(numbers)[:-1] if flows is None else flows:
        flow = np.stack([np.full((H, W), k), np.full((H, W), -k)], -1).astype(np.float32)
        flow[:6] = 500.0  # what an averaging of invalid pixels would bring in
        (training / "flow" / name).mkdir(parents=True, exist_ok=True)
        write_flow(training / "flow" / name / f"frame_{k:04d}.flo", flow)
        invalid, occluded = np.zeros((2, H, W), np.uint8)
        invalid[:6], occluded[:, :20] = 255, 255
        save(training / "invalid" / name / f"frame_{k:04d}.png", invalid)
        save(training / "occlusions" / name / f"frame_{k:04d}.png", occluded)
