"""A flow network on real video, where no truth is known: against Brox, and against the frames.

    python -m experiments.real_video --network=runs/flow_wide --videos=data/clips/test \\
        --output=runs/real_video

Of every video some frames at 128×171, the network's size. Printed, and written to OUTPUT:

* the end-point error of the network's flow and of zero flow to Brox's (its accurate parameters);
* the mean absolute difference between a frame and the next one warped back by the flow, over the
  voxels that both methods call visible: the end point is in the frame, and the backward flow there
  leads back to within half a pixel;
* the network's median speed where Brox says that nothing moves (below 0.02 px a frame).

Brox's flows are kept in OUTPUT/brox.npz; --brox_only makes nothing else.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
import numpy as np
import scipy.ndimage

from experiments.flow_methods import teacher_flow
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.media.folders import find_videos
from v2v_jax.media.video import read_video
from v2v_jax.system import compilation_cache
from v2v_jax.tasks.metrics import ratio

STILL = 0.02  # pixels a frame
CONSISTENT = 0.5  # pixels


def read_clips(folders: list[pathlib.Path], count: int) -> dict[str, np.ndarray]:
    """name → `count` frames (T,H,W,3) uint8 from the middle of each video that has them."""
    clips = {}
    for folder in folders:
        for path in find_videos(folder):
            video, _ = read_video(folder / path, size=FRAME_SIZE)
            start = (len(video) - count) // 2
            if start >= 0:
                clips[pathlib.Path(path).stem] = video[start : start + count]
    return clips


def sample(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """values (H,W,C) at the end points of flow (H,W,2), linear; outside the border's."""
    h, w = flow.shape[:2]
    y, x = np.mgrid[:h, :w]
    place = [y + flow[..., 1], x + flow[..., 0]]
    channels = np.moveaxis(values.astype(np.float32), -1, 0)
    read = lambda c: scipy.ndimage.map_coordinates(c, place, order=1, mode="nearest")
    return np.stack([read(c) for c in channels], -1)


def visible(flow: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """(H,W) bool: the end point is in the frame, and the backward flow there leads back."""
    h, w = flow.shape[:2]
    y, x = np.mgrid[:h, :w]
    to_x, to_y = x + flow[..., 0], y + flow[..., 1]
    inside = (to_x >= 0) & (to_x <= w - 1) & (to_y >= 0) & (to_y <= h - 1)
    back = np.linalg.norm(flow + sample(backward, flow), axis=-1)
    return inside & (back < CONSISTENT)


def compare(
    frames: np.ndarray, flows: dict[str, np.ndarray], backward: dict[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Sums and counts of one clip.

    Args:
      frames: (T,H,W,3) uint8.
      flows: "network", "brox" and "zero": (T-1,H,W,2), from each frame to the next.
      backward: "network" and "brox": (T-1,H,W,2), from the next frame to each.
    """
    distance = lambda a, b: np.linalg.norm(a - b, axis=-1)
    result = {
        f"{name} to Brox": _sum(distance(flows[name], flows["brox"]))
        for name in ("network", "zero")
    }
    both = [
        visible(flows["network"][t], backward["network"][t])
        & visible(flows["brox"][t], backward["brox"][t])
        for t in range(len(frames) - 1)
    ]
    result["visible"] = float(np.sum(both)), float(np.size(both))
    for name, flow in flows.items():
        errors = [
            np.abs(sample(frames[t + 1], flow[t]) - frames[t]).mean(-1)[seen]
            for t, seen in enumerate(both)
        ]
        result[f"photometric, {name}"] = _sum(np.concatenate(errors))
    return result


def _sum(values: np.ndarray) -> tuple[float, float]:
    return float(values.sum(dtype=np.float64)), float(values.size)


def both_ways(function, clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """name → the flows of a clip and of its reverse in time: (2,T-1,H,W,2).

    Args:
      function: frames (T,H,W,3) → (T-1,H,W,2).
    """
    found = {}
    for name, frames in clips.items():
        forward, reverse = function(frames), function(frames[::-1])
        found[name] = np.stack([forward, reverse[::-1]]).astype(np.float32)
    return found


def brox_flows(clips: dict[str, np.ndarray], path: pathlib.Path) -> dict[str, np.ndarray]:
    """Brox's, accurate, from the file or computed and written."""
    if path.exists():
        with np.load(path) as stored:
            found = {name: stored[name] for name in stored.files}
        if found.keys() == clips.keys():
            return found
    found = both_ways(lambda frames: teacher_flow(frames, "Brox, accurate"), clips)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def evaluate(
    clips: dict[str, np.ndarray], network: dict[str, np.ndarray], brox: dict[str, np.ndarray]
) -> dict[str, float]:
    """The figures over all clips, pooled over voxels."""
    totals: dict[str, np.ndarray] = {}
    still = []
    for name, frames in clips.items():
        flows = {"network": network[name][0], "brox": brox[name][0]}
        flows["zero"] = np.zeros_like(flows["brox"])
        backward = {"network": network[name][1], "brox": brox[name][1]}
        for key, pair in compare(frames, flows, backward).items():
            totals[key] = totals.get(key, 0) + np.array(pair)
        rests = np.linalg.norm(flows["brox"], axis=-1) < STILL
        still.append(np.linalg.norm(flows["network"], axis=-1)[rests])
    result = {key: float(total / count) for key, (total, count) in totals.items()}
    resting = np.concatenate(still)
    result["median speed where Brox rests"] = float(np.median(resting)) if resting.size else 0.0
    result["share that rests"] = resting.size / sum(b[0][..., 0].size for b in brox.values())
    share = lambda one, other: ratio(result[one], result[other])
    result["to Brox, of zero's"] = share("network to Brox", "zero to Brox")
    result["photometric, of Brox's"] = share("photometric, network", "photometric, brox")
    return result


def main(argv: list[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=pathlib.Path, help="of configs/flow.py")
    parser.add_argument("--videos", type=pathlib.Path, action="append", required=True)
    parser.add_argument("--frames", type=int, default=17, help="of each video")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--brox_only", action="store_true")
    args = parser.parse_args(argv)
    compilation_cache.enable()
    clips = read_clips(args.videos, args.frames)
    brox = brox_flows(clips, args.output / "brox.npz")
    print(f"{len(clips)} clips of {args.frames} frames", flush=True)
    if args.brox_only:
        return
    import v2v_jax

    predictor = v2v_jax.load(args.network, full_frame=False)
    network = both_ways(lambda frames: predictor(frames)[:-1], clips)
    result = evaluate(clips, network, brox)
    result |= {"clips": len(clips), "device": jax.devices()[0].device_kind}
    text = json.dumps(result, indent=2)
    (args.output / "real_video.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
