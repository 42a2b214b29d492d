"""`v2v_jax.load`: a predictor from a path or from the name of weights in the zoo."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from v2v_jax.errors import CheckpointError
from v2v_jax.system.paths import local_path
from v2v_jax.zoo import index

if TYPE_CHECKING:
    from v2v_jax.inference.predictor import Predictor


def load(
    path: str | os.PathLike[str],
    *,
    scale: Literal["training", "native"] = "training",
    overlap: float = 0.25,
    full_frame: bool | None = None,
    batch_size: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Predictor:
    """A predictor from a run's folder, its checkpoints, a file of v2v export, or a name in the zoo.

    It needs neither the dataset nor the configuration: both are stored with the weights. Of a task
    of one's own, the module that registers it has to be imported before.

    Args:
      path: what `v2v train --workdir` or `v2v export --output` names; or, where no such file or
        folder exists, a name that `v2v models` lists.
      scale: "training" scales frames so that their shorter side is about that of the training
        frames; "native" leaves the video's own size.
      overlap: share of a window that the next one covers too, in T, H and W; 0 <= overlap < 1.
      full_frame: None: a frame is one window, scaled to the network's multiple where that is a
        tenth away at most and padded otherwise; or, where that is more than four times the training
        clip, as few windows as cost least. The programs are compiled anew for every size of window.
        True: one window however large it is, padded. False: windows of the training clip's size,
        which serve any size of video.
      batch_size: windows a call of the network; None: 1 on CPUs, 32 elsewhere. A live stream wants
        as few as cover a frame (docs/guides/own_video.md).
      dtype: of the network's computation; "auto": what its configuration says, which is bfloat16 on
        accelerators and float32 on CPUs unless it was changed there.

    Raises:
      CheckpointError: there is nothing of that kind, it is damaged, another version wrote it, or it
        is for a task that is not registered, or that does not answer at every voxel.
      ValueError: an option's value that is not known; full_frame or dtype for an export, whose
        network has one size and one dtype.
    """
    from v2v_jax.inference.network import read_network
    from v2v_jax.inference.predictor import Predictor

    place = resolve(path)
    if not os.path.lexists(place):
        known = [entry.name for entry in index.read_index()]
        names = f"known names: {', '.join(known)}" if known else "none ship with this version"
        raise CheckpointError(
            f"No checkpoint in {place}: expected a run's folder (the --workdir of v2v train), "
            "its checkpoints folder, a file that v2v export wrote, or a name that v2v models "
            f"lists ({names})."
        )
    return Predictor(
        read_network(place, dtype),
        scale=scale,
        overlap=overlap,
        full_frame=full_frame,
        batch_size=batch_size,
    )


def resolve(path: str | os.PathLike[str]) -> str:
    """A path as it is; where nothing is there and it is a name in the zoo, its verified file.

    Raises:
      CheckpointError: the file is not the one that was shipped.
    """
    path = local_path(os.fspath(path))
    if not os.path.lexists(path) and path in [entry.name for entry in index.read_index()]:
        return str(index.find(path))
    return path
