"""What V2V can be trained for: a task's input, target, loss, metrics, trivial answer and picture.

A task is one module with one class, which `register_task` makes known by its name.
"""

from v2v_jax.tasks.classification import Classification
from v2v_jax.tasks.color import Color
from v2v_jax.tasks.depth import Depth
from v2v_jax.tasks.flow import Flow
from v2v_jax.tasks.registry import (
    TASKS,
    checked_options,
    make_task,
    record,
    register_task,
    restore_task,
    stored_options,
    task_class,
)
from v2v_jax.tasks.segmentation import Segmentation
from v2v_jax.tasks.task import Arrays, Batch, PaperRecipe, Picture, Task, clip_valid

__all__ = [
    "TASKS",
    "Arrays",
    "Batch",
    "Classification",
    "Color",
    "Depth",
    "Flow",
    "PaperRecipe",
    "Picture",
    "Segmentation",
    "Task",
    "checked_options",
    "clip_valid",
    "make_task",
    "record",
    "register_task",
    "restore_task",
    "stored_options",
    "task_class",
]

for _task in (Segmentation, Flow, Color, Depth, Classification):
    register_task(_task)
