"""A zoo of tiny trained networks, as if it came with the package."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

from v2v_jax.inference.export import write_weights_of
from v2v_jax.inference.network import TrainedNetwork
from v2v_jax.zoo import index
from v2v_jax.zoo.index import ShippedWeights


def entry(name: str, network: TrainedNetwork, folder: pathlib.Path) -> ShippedWeights:
    """Writes a network and its card's text to a folder; what the index is to say of it."""
    file = folder / f"{name}.v2v"
    write_weights_of(network, file, bits=32)
    (folder / f"{name}.md").write_text("How it was trained.\n")
    content = file.read_bytes()
    return ShippedWeights(
        name=name,
        file=file.name,
        task=network.task.name,
        data="scenes",
        data_licence="rendered by this package",
        score="voxel accuracy 0.5 on unseen scenes",
        metric="accuracy",
        measured_on="its own test split",
        value=0.499,
        value_before=0.5,
        baseline=0.25,
        model="v2v",
        clip="8×32×32",
        parameters=sum(leaf.size for layer in network.params.values() for leaf in layer.values()),
        bits=32,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        card=f"{name}.md",
    )


def write_index(folder: pathlib.Path, *entries: ShippedWeights) -> None:
    """index.json of these."""
    (folder / index.INDEX).write_text(json.dumps([dataclasses.asdict(e) for e in entries]))
