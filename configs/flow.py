"""Optical flow (paper section 5): the end-point error in pixels is loss and metric.

    python train.py --config=configs/flow.py --workdir=runs/flow
    python eval.py --config=configs/flow.py --workdir=runs/flow

The default trains the full V2V from scratch on rendered scenes, whose flow is exact: 8,000 steps of
32 clips, 6.5 minutes on half an H200 (two runs share it), 3.1 minutes' worth of its 1,365 clips/s.
The end-point error on the test split is then 0.090 px (docs/results/scenes.md; the search:
docs/records/learning.md).

On UCF101, as in the paper, from what Brox's method finds (docs/guides/teacher_labels.md):

    v2v label --dataset=ucf101 --root=data/ucf101 --output=data/ucf101_flow
    python train.py --config=configs/flow.py:dataset=ucf101 --config.data.root=data/ucf101 \\
        --config.data.teacher_labels=data/ucf101_flow --workdir=runs/flow_ucf101

Other true flow: `:dataset=sintel`, `:dataset=movi` (docs/reference/datasets.md).

The paper's loss, Huber's on flow / 15: `--config.task_options.loss=huber`. `robust` is of no use
where most stands still (docs/records/learning.md).
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config("flow", options, num_steps=8000, learning_rate=1e-3)
    if options.demo:
        # Small crops and more steps: it leaves zero flow late.
        geometry = dict(batch_size=8, crop_size=(32, 32), clip_length=8)
        recipes.shrink_to_demo(config, num_steps=1200, learning_rate=1e-3, **geometry)
    return config
