"""How a transposed convolution's blocks hold its voxels."""

from __future__ import annotations

import dataclasses

from v2v_jax.system import triton


@dataclasses.dataclass(frozen=True)
class BlockLayout:
    """Where the voxels (B,T,H,W,C) lie in blocks (B,T',H',W',st·sh·sw·C) that hold a margin too.

    Attributes:
      blocks: T',H',W'.
      strides: voxels a block in T, H, W.
      crop: voxels of margin before the first one that counts.
      size: T,H,W.
      channels: C.
    """

    blocks: tuple[int, int, int]
    strides: tuple[int, int, int]
    crop: tuple[int, int, int]
    size: tuple[int, int, int]
    channels: int

    @property
    def padded(self) -> tuple[int, int, int]:
        """T,H,W with the margins."""
        return tuple(n * s for n, s in zip(self.blocks, self.strides))

    def offset(self, b, t, h, w):
        """Element at which voxel (t,h,w) of clip b begins, t,h,w counted with the margin."""
        (nt, nh, nw), (st, sh, sw) = self.blocks, self.strides
        (bt, t), (bh, h), (bw, w) = triton.divide(t, st), triton.divide(h, sh), triton.divide(w, sw)
        block = ((b * nt + bt) * nh + bh) * nw + bw
        return (((block * st + t) * sh + h) * sw + w) * self.channels
