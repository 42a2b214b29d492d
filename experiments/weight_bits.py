"""What eight bits a weight cost, by which layers keep sixteen: docs/records/inference.md.

    git show bcabf24:v2v_jax/zoo/depth.v2v > depth16.v2v
    python -m experiments.weight_bits --weights=depth16.v2v [--split=test]

WEIGHTS are what `experiments.zoo` takes, in sixteen bits or more. Prints the task's headline metric
over all windows of a split of the data that they were trained on, and by how much that of each
window changed: the mean, and the one that lost the most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from experiments import zoo
from v2v_jax.models.c3d import INPUT_LAYER
from v2v_jax.run.weight_file import Params, dequantize, quantize
from v2v_jax.system import compilation_cache

_LAST = "conv_pre"
_SHARES = np.linspace(0.6, 1.0, 41)  # of the scale at which nothing is cut off


def least_squares(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `quantize`, with the scale of the least squared error: the largest may be cut off."""
    codes, scales = quantize(kernel)
    axes = tuple(range(kernel.ndim - 1))
    best, best_error = (codes, scales), np.square(dequantize(codes, scales) - kernel).sum(axes)
    for share in _SHARES:
        tried = np.clip(np.rint(kernel / (share * scales)), -127, 127).astype(np.int8)
        error = np.square(dequantize(tried, share * scales) - kernel).sum(axes)
        better = error < best_error
        best = (np.where(better, tried, best[0]), np.where(better, share * scales, best[1]))
        best_error = np.minimum(error, best_error)
    return best


def rounded(
    params: Params, keep: tuple[str, ...], way: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> Params:
    """Weights whose kernels went through eight bits, but for those of the layers in `keep`."""
    return {
        layer: {
            leaf: dequantize(*way(value)) if leaf == "kernel" and layer not in keep else value
            for leaf, value in leaves.items()
        }
        for layer, leaves in params.items()
    }


def variants(params: Params) -> Iterator[tuple[str, Params]]:
    """(name, weights); the first are those that the others are compared with."""
    yield "as they are", params
    yield "8 bits", rounded(params, (), quantize)
    yield f"8 bits, {_LAST} as it is", rounded(params, (_LAST,), quantize)
    yield f"8 bits, {INPUT_LAYER} as it is", rounded(params, (INPUT_LAYER,), quantize)
    yield (
        f"8 bits, {INPUT_LAYER} and {_LAST} as they are",
        rounded(params, (INPUT_LAYER, _LAST), quantize),
    )
    yield "8 bits, scales of least squares", rounded(params, (), least_squares)


def main(argv: list[str] | None = None) -> None:
    """Prints a Markdown table."""
    import jax

    from v2v_jax.evaluation.evaluator import Evaluator
    from v2v_jax.models.standardization import fold

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--split", choices=("test", "validation"), default="validation")
    options = parser.parse_args(argv)
    compilation_cache.enable()
    source = zoo.read_source(options.weights)
    experiment = zoo.experiment_of(source.about, None, options.split)
    headline, expected = experiment.task.headline, None
    print(f"| | {headline} | change | windows: mean | windows: worst |\n|---|---|---|---|---|")
    with jax.set_mesh(experiment.mesh):
        evaluator = Evaluator(experiment)
        for name, params in variants(fold(source.params)):
            sums, windows = evaluator.windows(jax.device_put(params))
            value = evaluator.summarize(sums)[headline]
            each = np.array([window.values[headline] for window in windows])
            expected = expected or (value, each)
            changes = each / expected[1] - 1
            worst = changes.max() if experiment.task.better == "min" else changes.min()
            cells = f"{value / expected[0] - 1:+.2%} | {changes.mean():+.2%} | {worst:+.2%}"
            print(f"| {name} | {value:.5f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
