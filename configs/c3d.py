"""C3D (Tran et al. 2015): a clip's class, to start V2V from where no Sports-1M file is at hand.

    python train.py --config=configs/c3d.py --workdir=runs/c3d
    python eval.py --config=configs/c3d.py --workdir=runs/c3d
    python train.py --config=configs/seg.py --config.init_from=runs/c3d --workdir=runs/seg

The default trains on rendered scenes, whose class is how the camera and the main object move
(v2v_jax/datasets/scenes/motion.py: twelve classes): 3,000 steps of 32 clips of 1,600 videos. It has
not learnt them yet: 2,000 steps on 800 videos reached 0.23 of the test clips (0.13 at a rate of
1e-4), the commonest class has 0.24 (one H100, 2026-11-25; docs/results.md: its worth as a start).

UCF101's 101 actions: c3d.py:dataset=ucf101 --config.data.root=DIR (docs/data.md), from its videos
or, with --config.data.source=tfds, from tensorflow-datasets.
"""

from ml_collections import ConfigDict

from v2v_jax import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg, model="c3d")
    config = recipes.make_config("classification", options, num_steps=3000, learning_rate=3e-5)
    if options.recipe == "paper":
        config.batch_size = config.eval_batch_size = 30
    if options.dataset == "scenes":
        config.data.num_train_videos = 1600
        config.data.num_test_videos = 200
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300)
    return config
