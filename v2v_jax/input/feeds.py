"""The two feeds, by the name that `config.feed` has.

* `device` keeps the decoded set in accelerator memory (`DeviceFeed`).
* `tf_data` decodes only what a step needs, in parallel and ahead (`TfDataFeed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jax.sharding import Mesh

from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.errors import ConfigError
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.device_feed import DeviceFeed
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.input.tf_data_feed import TfDataFeed

FEEDS = ("device", "tf_data")


def make_feed(
    kind: str,
    dataset: VideoDataset,
    fields: Sequence[str],
    preprocessing: Preprocessing,
    mesh: Mesh,
    progress: Callable[[Iterable, int, str], Iterable] | None = None,
    *,
    count_replacements: bool = True,
    grows: bool = False,
) -> Feed:
    """The feed of that name.

    Args:
      kind: one of `FEEDS`.
      fields: which of the dataset's fields to deliver.
      count_replacements: whether a clip that stands for an unreadable one counts, as in training,
        or is masked, as in evaluation, where it would count twice.
      grows: do not wait for all videos: `batches` waits for those that a batch needs.
      progress: wraps an iterable of known length to show its progress.

    Raises:
      ConfigError: unknown kind, or the set does not fit the accelerators' memory.
      DataError: the dataset lacks a field, or too many of its videos are unreadable.
    """
    if kind not in FEEDS:
        raise ConfigError(f"feed is {kind!r}; known: {', '.join(FEEDS)}.")
    dataset.prepare_fields(fields, progress)
    if kind == "device":
        return DeviceFeed(dataset, fields, preprocessing, mesh, progress, count_replacements, grows)
    return TfDataFeed(dataset, fields, preprocessing, mesh, count_replacements)
