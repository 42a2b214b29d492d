"""A network with its weights and all that is needed to use them, of a run or of a file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import v2v_jax
from v2v_jax.errors import CheckpointError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.run.weight_file import StoredWeights, is_weights, read_weights
from v2v_jax.tasks import TASKS, Task, restore_task

DTYPES = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a `Predictor` runs.

    Attributes:
      apply: (params, video (B,T,H,W,3) uint8 RGB) → (B,T,H,W,C) float32, what the task blends
        windows as (`Task.blendable`). Traced by jit.
      params: the weights, a pytree.
      task: what it was trained for.
      preprocessing: the scale and the clip that it was trained on.
      multiple: of T, H and W that the network takes.
      any_size: whether it takes other sizes than the clip's.
      about: what was stored with the weights, JSON.
      step: of the training run; None if not known.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any
    task: Task
    preprocessing: Preprocessing
    multiple: tuple[int, int, int] = (8, 16, 16)
    any_size: bool = True
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None

    @property
    def clip(self) -> tuple[int, int, int]:
        """(T,H,W) of the clips that it was trained on."""
        return (self.preprocessing.clip_length, *self.preprocessing.crop_size)


def from_about(about: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Fields of a TrainedNetwork from a stored record.

    Raises:
      CheckpointError: the record is another version's and lacks something, or is for a task that
        is not registered, or that does not answer at every voxel.
    """
    try:
        name = about["task"]
        if name in TASKS and TASKS[name].answers != "voxels":
            known = ", ".join(n for n, kind in TASKS.items() if kind.answers == "voxels")
            raise CheckpointError(
                f"{where} is for the task {name!r}; prediction needs a network that "
                f"answers at every voxel: {known}."
            )
        return dict(
            task=restore_task(about, where),
            preprocessing=Preprocessing.from_dict(about["preprocessing"]),
            multiple=(8 if about["model"]["name"] != "v2v_2d" else 1, 16, 16),
            about=about,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _other_version(about, where, error) from error


def read_network(path: str | pathlib.Path, dtype: str = "auto") -> TrainedNetwork:
    """Reads whatever holds a network: a file of `v2v export`, or a run's checkpoint.

    Args:
      dtype: of the computation, "float32" or "bfloat16"; "auto": what its configuration says.

    Raises:
      CheckpointError: see `from_checkpoint`, `from_weights` and `export.read_export`.
      ValueError: another dtype, or one for an exported network, which has its own.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(map(repr, DTYPES))}.")
    if not pathlib.Path(path).is_file():
        return from_checkpoint(path, dtype)
    if is_weights(path):
        return from_weights(read_weights(path), path, dtype)
    if dtype != "auto":
        raise ValueError(
            f"dtype is {dtype!r}, but {path} was exported with its own; leave dtype out, or export "
            f"the checkpoint again with --dtype={dtype}."
        )
    from v2v_jax.inference.export import read_export

    return read_export(path)


def from_weights(
    weights: StoredWeights, where: object = "The weights", dtype: str = "auto"
) -> TrainedNetwork:
    """The network of stored weights, rebuilt from the record that came with them.

    Args:
      where: what they are called in messages.
      dtype: see `read_network`.

    Raises:
      CheckpointError: see `from_about`. Weights that do not fit the record are found out when
        `apply` is traced.
    """
    fields = from_about(weights.about, where)
    try:
        _, unchecked = _rebuilt(weights.about, fields["task"], dtype)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _other_version(weights.about, where, error) from error

    def apply(params: Any, video: jax.Array) -> jax.Array:
        import flax.errors

        try:  # where it is traced: tracing it only to compare shapes would take a second
            return unchecked(params, video)
        except flax.errors.FlaxError as error:
            raise CheckpointError(
                f"{where} has other layers than its record says; use the version that wrote it."
            ) from error

    return TrainedNetwork(apply=apply, params=weights.params, step=weights.step, **fields)


def from_checkpoint(path: str | pathlib.Path, dtype: str = "auto") -> TrainedNetwork:
    """Reads the best checkpoint of a run (the latest, if none was evaluated); needs no dataset.

    Args:
      path: the run's folder (--workdir), its `checkpoints`, or one step's folder in there.
      dtype: see `read_network`.

    Raises:
      CheckpointError: there is none, it is damaged, or another version wrote it.
    """
    from v2v_jax.run.which_checkpoint import find_checkpoint

    found = find_checkpoint(path, also="a file that v2v export wrote")
    where = f"The checkpoint {found.folder}"
    fields = from_about(found.about, where)
    try:
        init, apply = _rebuilt(found.about, fields["task"], dtype)
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(init),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _other_version(found.about, where, error) from error
    params = _for_use(found.params(like))
    return TrainedNetwork(apply=apply, params=params, step=found.step, **fields)


def _for_use(params: Any) -> Any:
    """Parameters as training keeps them → as prediction and exports take them: plain kernels."""
    from v2v_jax.models.standardization import fold  # an export is used without the models

    return fold(params)


def make_apply(about: Mapping[str, Any], dtype: str = "auto") -> Callable[[Any, jax.Array], Any]:
    """`TrainedNetwork.apply` of a stored configuration.

    Args:
      about: the record stored with the weights.
      dtype: of the computation, where the configuration leaves it to the platform ("auto").
    """
    stored = about["config"]["dtype"]
    return _rebuilt(about, restore_task(about), dtype if stored == "auto" else stored)[1]


def _rebuilt(
    about: Mapping[str, Any], task: Task, dtype: str = "auto"
) -> tuple[Callable[[], Any], Callable[[Any, jax.Array], jax.Array]]:
    """What initialises the parameters, and `apply`, of a stored configuration.

    Args:
      dtype: of the computation; "auto": the configuration's.
    """
    from v2v_jax.run.model import make_model

    config = ConfigDict(about["config"])
    dtype = config.dtype if dtype == "auto" else dtype
    model = make_model(config.model, dtype, task.num_outputs)
    preprocessing = Preprocessing.from_dict(about["preprocessing"])

    def params() -> Any:
        size = (1, preprocessing.clip_length, *preprocessing.crop_size)
        clip = jnp.zeros((*size, task.input_channels))
        return model.init(jax.random.key(0), clip)["params"]

    def apply(params: Any, video: jax.Array) -> jax.Array:
        inputs = task.inputs({"video": video}, preprocessing)
        return task.blendable(model.apply({"params": params}, inputs))

    return params, apply


def _other_version(about: Any, where: object, error: Exception) -> CheckpointError:
    version = about.get("version", "unknown") if isinstance(about, Mapping) else "unknown"
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return CheckpointError(
        f"{where} was written by version {version} of v2v_jax and cannot be used by version "
        f"{v2v_jax.__version__} ({reason}); use the version that wrote it."
    )
