"""The tasks by name, and how one is made of a dataset, or of what is stored with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.system.own_modules import is_same_definition, origin
from v2v_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {}  # filled by `register_task`

_Kind = TypeVar("_Kind", bound=type[Task])


def register_task(task: _Kind) -> _Kind:
    """Makes a task known by its name: to configurations, and to `load` for weights trained for it.

    A module of one's own calls it, or puts it above the class as a decorator. Registering the same
    class again, as when its module is loaded twice, replaces it.

    Args:
      task: a subclass of `Task` with a `name` of its own.

    Returns:
      The same class.

    Raises:
      ConfigError: the class lacks what a task must have, or the name belongs to another one.
    """
    _check(task)
    known = TASKS.get(task.name)
    if known is not None and not is_same_definition(known, task):
        raise ConfigError(
            f"The task {task.name!r} of {origin(task)} cannot be registered: {origin(known)} has "
            "one of that name; choose another name."
        )
    TASKS[task.name] = task
    return task


def task_class(name: str) -> type[Task]:
    """The class that is registered under a name; ConfigError, which lists all, if there is none."""
    if name not in TASKS:
        raise ConfigError(f"task is {name!r}; known: {', '.join(TASKS)}.")
    return TASKS[name]


def make_task(name: str, dataset: VideoDataset, options: Mapping[str, Any] | None = None) -> Task:
    """The task of that name for a dataset, which decides the number of classes.

    Args:
      options: of `Task.options`, those that differ from their defaults.

    Raises:
      ConfigError: no such task, or no such option.
      DataError: the dataset lacks what the task needs.
    """
    kind = task_class(name)
    dataset.check_fields(kind.fields)
    return kind.from_dataset(dataset, **checked_options(kind, options or {}))


def checked_options(kind: type[Task], options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a task, the defaults too.

    Raises:
      ConfigError: an option that the task does not have, or a value that cannot be used.
    """
    unknown = [name for name in options if name not in kind.options]
    if unknown:
        known = f"known: {', '.join(kind.options)}" if kind.options else "it has none"
        raise ConfigError(f"The task {kind.name} has no option {unknown[0]}; {known}.")
    complete = {**kind.options, **options}
    kind.check_options(complete)
    return complete


def record(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `restore_task` needs, to be stored with the weights; JSON-ready.

    Args:
      options: that the task was made with.
    """
    return {
        "task": task.name,
        "task_module": origin(type(task)).rpartition(":")[0],
        "task_options": dict(options),
        "task_stored": task.stored,
        "num_outputs": task.num_outputs,
        "label_names": task.label_names,
    }


def stored_options(about: Mapping[str, Any]) -> dict[str, Any]:
    """The task's options in a record that is stored with weights, or in a configuration.

    Older ones have them among their other entries, not by themselves. An option that is newer than
    the record has its value of `Task.options_before`, or else its default; JSON's lists are tuples.

    Raises:
      ConfigError: the task is not registered.
    """
    kind = task_class(about["task"])
    stored = {**kind.options, **kind.options_before, **about.get("task_options", about)}
    values = {name: stored[name] for name in kind.options}
    return {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}


def restore_task(about: Mapping[str, Any], where: object = "The checkpoint") -> Task:
    """The task that weights were trained for, without its dataset.

    Args:
      about: what is stored with the weights.
      where: of which weights, for the message.

    Raises:
      CheckpointError: the task is not registered; no code comes with weights.
      KeyError, TypeError: the record is another version's.
    """
    name = about["task"]
    if name not in TASKS:
        module = about.get("task_module") or "the module that registers it"
        raise CheckpointError(
            f"{where} is for the task {name!r}, which is not registered here (known: "
            f"{', '.join(TASKS)}): import {module} first, or add --import={module}."
        )
    return TASKS[name].from_stored(about, **stored_options(about))


def _check(task: type[Task]) -> None:
    where = getattr(task, "__qualname__", repr(task))
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise ConfigError(f"{where} cannot be registered: it is not a subclass of v2v_jax.Task.")
    name, fields = getattr(task, "name", None), getattr(task, "fields", None)
    if not (isinstance(name, str) and name):
        raise ConfigError(f"{where} cannot be registered: it has no `name`.")
    if not (isinstance(fields, tuple) and "video" in fields):
        raise ConfigError(
            f"The task {name!r} cannot be registered: its `fields` are {fields!r}; expected a "
            'tuple with "video" in it.'
        )
    if task.better not in ("max", "min") or task.answers not in ("voxels", "clips"):
        raise ConfigError(
            f"The task {name!r} cannot be registered: `better` is {task.better!r} (max or min), "
            f"`answers` {task.answers!r} (voxels or clips)."
        )
    if task.__abstractmethods__:
        missing = ", ".join(sorted(task.__abstractmethods__))
        raise ConfigError(f"The task {name!r} cannot be registered: it lacks {missing}.")
