"""Video semantic segmentation (paper section 4): voxel-wise softmax.

    python train.py --config=configs/seg.py --workdir=runs/seg
    python eval.py --config=configs/seg.py --workdir=runs/seg

The default trains the full V2V on rendered scenes (eight classes): 6,000 steps of 32 clips, 5.8
minutes on half an H200 (two runs share it). It has a voxel accuracy of 0.958 on the test split,
where the commonest class has 0.269 (docs/results/scenes.md). On a CPU it takes days; there:

    python train.py --config=configs/seg.py:demo --workdir=runs/demo      (`make demo`)

Other data: seg.py:dataset=gatech (the paper's), frames (such as CamVid), davis (foreground). The
paper's schedule: seg.py:recipe=paper (100,000 steps of one clip). Its baselines:
seg.py:model=v2v_2d (2D-V2V), conv3b_up, conv4b_up, conv5b_up; all of Table 1:
experiments/table1.py. A quarter of the filters: seg.py:size=small.
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config("segmentation", options, num_steps=6000, learning_rate=2e-3)
    if options.demo:
        # Short clips, few at a time: more steps at the same cost.
        geometry = dict(batch_size=2, clip_length=8)
        recipes.shrink_to_demo(config, num_steps=1200, learning_rate=1e-3, **geometry)
    return config
