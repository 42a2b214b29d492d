"""C3D (Tran et al. 2015): a clip's class, to start V2V from where no Sports-1M file is at hand.

    python train.py --config=configs/c3d.py --workdir=runs/c3d
    python eval.py --config=configs/c3d.py --workdir=runs/c3d
    python train.py --config=configs/seg.py --config.init_from=runs/c3d --workdir=runs/seg

The default trains on rendered scenes, whose class is how the camera and the main object move
(v2v_jax/datasets/scenes/motion.py: twelve classes): 8,000 steps of 32 clips of 18,000 videos,
whose colours, blur and noise vary; 0.71 of the test split right (docs/results/scenes.md). Half an
H200 (two runs share it) trained in 394 s. The videos are one clip long, because the class is of a
whole video: of 16 of 48 frames it tells the right one in half of the cases only, even to who knows
all that moves. Crops are wider than the paper's: the object that gives the class its name is in the
middle 112×112 of 73 % of the videos, in 112×160 of 92 % (experiments/motion_classes.py).

UCF101's 101 actions: c3d.py:dataset=ucf101 --config.data.root=DIR, from its videos or, with
--config.data.source=tfds, from tensorflow-datasets (docs/reference/datasets.md).
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes

# Not the place of things: the object that gives the class its name has to stay in the crop.
_VARY = {
    **{"hue": 15.0, "saturation": 0.3, "gain": 0.15, "contrast": 0.2, "brightness": 0.1},
    **{"gamma": 0.2, "blur": 1.0, "noise": 0.03},
}


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg, model="c3d")
    config = recipes.make_config("classification", options, num_steps=8000, learning_rate=3e-4)
    if options.recipe == "paper":
        config.batch_size = config.eval_batch_size = 30
    if options.dataset == "scenes":
        config.data.num_train_videos = 18000
        config.data.num_validation_videos = config.data.num_test_videos = 400
    if options.recipe == "modern" and options.dataset == "scenes":
        config.model.dropout = 0.0  # with it the loss stays at the commonest class's for long
        config.preprocessing.crop_size = (112, 160)
        if not options.demo:  # few steps learn the clips as they are
            config.augmentation.update(**_VARY)
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300, learning_rate=3e-4)
    if options.dataset == "scenes":
        config.data.num_frames = config.preprocessing.clip_length
    return config
