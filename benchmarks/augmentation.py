"""What augmentation costs a training step: a step's clips alone, and beside the whole step.

    python -m benchmarks.augmentation                  # a CPU: the demo; a GPU: the full network
    python -m benchmarks.augmentation --batch 32

Random clips. Each option alone, then the setting that docs/reference/recipes.md recommends. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.input.augmentation import STANDARD, Augmentation, augment
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models import V2V
from v2v_jax.tasks import losses

ALONE = {
    "scale, aspect": {"scale": STANDARD["scale"], "aspect": STANDARD["aspect"]},
    "blur": {"blur": STANDARD["blur"]},
    "hue … brightness": {name: STANDARD[name] for name in ("hue", "gain", "brightness")},
    "gamma": {"gamma": STANDARD["gamma"]},
    "noise": {"noise": STANDARD["noise"]},
    "reverse": {"reverse": 0.5},
    "the recommended setting": STANDARD,
}


def milliseconds(function: Callable, *args, rounds: int = 5) -> float:
    """Of a jitted call, the median, after one to compile it."""
    jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return 1e3 * sorted(seconds)[rounds // 2]


def random_clips(options: Augmentation, preprocessing: Preprocessing, batch: int) -> dict:
    """Videos and labels as feeds deliver them."""
    source = options.source(preprocessing)
    size = (batch, source.clip_length, *source.crop_size)
    key = jax.random.key(0)
    values = lambda field, most: jax.random.randint(
        key, (*size, *FIELDS[field].channels), 0, most, dtype=FIELDS[field].dtype
    )
    return {"video": values("video", 255), "labels": values("labels", 8)}


def training_step(width: float, preprocessing: Preprocessing, options: Augmentation) -> Callable:
    """(params, clips, seeds) → new parameters, of softmax cross-entropy and plain SGD."""
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model, optimizer = V2V(8, width=width, dtype=jnp.dtype(dtype)), optax.sgd(1e-3)

    def loss(params, clips):
        logits = model.apply(params, preprocessing.normalize(clips["video"]))
        valid = jnp.ones(clips["labels"].shape, bool)
        return losses.mean(losses.softmax_cross_entropy(logits, clips["labels"], valid))

    @jax.jit
    def step(params, clips, seeds):
        clips = augment(clips, seeds, options, preprocessing)
        updates, _ = optimizer.update(jax.grad(loss)(params, clips), optimizer.init(params))
        return optax.apply_updates(params, updates)

    return step


def main() -> None:
    """Prints a table."""
    cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4 if cpu else 32)
    parser.add_argument("--width", type=float, default=0.25 if cpu else 1.0)
    args = parser.parse_args()
    demo = Preprocessing(frame_size=(72, 96), crop_size=(64, 64))
    preprocessing = demo if cpu else Preprocessing()
    t, (h, w) = preprocessing.clip_length, preprocessing.crop_size
    video = jax.ShapeDtypeStruct((1, t, h, w, 3), jnp.float32)
    model = V2V(8, width=args.width)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    params = jax.tree.map(lambda x: 0.01 * jnp.ones(x.shape, x.dtype), shapes)
    seeds = jnp.arange(args.batch, dtype=jnp.uint32)

    def whole_step(options: Augmentation) -> float:
        clips = random_clips(options, preprocessing, args.batch)
        return milliseconds(training_step(args.width, preprocessing, options), params, clips, seeds)

    plain = whole_step(Augmentation())
    print(f"{jax.devices()[0].device_kind}: a step of {args.batch} clips takes {plain:.1f} ms\n")
    print("| augmentation | alone, ms | share of the step |\n|---|---|---|")
    for name, values in ALONE.items():
        options = Augmentation.from_config(values)
        clips = random_clips(options, preprocessing, args.batch)
        run = jax.jit(lambda clips, seeds, o=options: augment(clips, seeds, o, preprocessing))
        alone = milliseconds(run, clips, seeds)
        print(f"| {name} | {alone:.2f} | {100 * alone / plain:.1f} % |", flush=True)
    augmented = whole_step(Augmentation.from_config(STANDARD))
    print(f"\nThe step with the recommended setting: {augmented:.1f} ms")


if __name__ == "__main__":
    main()
