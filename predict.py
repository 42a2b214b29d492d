"""Predicts videos: python predict.py --checkpoint=runs/seg --video=in.mp4 --output=out.mp4."""

import sys

from v2v_jax.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
