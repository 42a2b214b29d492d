"""What V2V can be trained for: a task's input, target, loss, metrics, trivial answer and picture.

A task is one module with one class, and one entry of `TASKS`.
"""

from __future__ import annotations

from collections.abc import Sequence

from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.tasks.classification import Classification
from v2v_jax.tasks.color import Color
from v2v_jax.tasks.depth import Depth
from v2v_jax.tasks.flow import Flow
from v2v_jax.tasks.segmentation import Segmentation
from v2v_jax.tasks.task import Arrays, Batch, Picture, Task

__all__ = [
    "TASKS",
    "Arrays",
    "Batch",
    "Classification",
    "Color",
    "Depth",
    "Flow",
    "Picture",
    "Segmentation",
    "Task",
    "make_task",
    "restore_task",
]

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Segmentation, Flow, Color, Depth, Classification)
}


def make_task(
    name: str,
    dataset: VideoDataset,
    *,
    residual: bool = False,
    hints: int = 0,
    loss: str = "",
) -> Task:
    """The task of that name for a dataset, which decides the number of classes.

    Args:
      loss: of `losses.REGRESSION`, for flow, colour and depth; empty: the paper's.
      residual, hints: for `color`, see there; other tasks have no such thing.

    Raises:
      DataError: the dataset lacks what the task needs.
    """
    task = TASKS[name]
    dataset.check_fields(task.fields)
    if task is Classification:
        return Classification(dataset.video_label_names)
    if task is Segmentation:
        return Segmentation(dataset.label_names)
    chosen = {"loss": loss} if loss else {}
    if task is Flow:
        return Flow(
            with_occlusion="flow_occluded" in dataset.fields,
            native_scale=_native_scale(dataset),
            **chosen,
        )
    return Color(residual, hints, **chosen) if task is Color else task(**chosen)


def restore_task(
    name: str, label_names: Sequence[str], *, residual: bool = False, hints: int = 0
) -> Task:
    """The task that a checkpoint was trained for, without its dataset.

    Args:
      name, label_names, residual, hints: as stored with the weights. Of hints, it is given those
        of a batch's `hint_mask` and draws none of its own.
    """
    if name in (Segmentation.name, Classification.name):
        return TASKS[name](label_names)
    if name == Color.name:
        return Color(residual, hints, draw_hints=False)
    return TASKS[name]()


def _native_scale(dataset: VideoDataset) -> tuple[float, float]:
    """Native pixels a pixel of the resized frame, (x, y)."""
    (h, w), (native_h, native_w) = dataset.frame_size, dataset.native_size or dataset.frame_size
    return native_w / w, native_h / h
