"""Lines of voxels in the blocks of a transposed convolution, as Hopper's copy engine moves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.kernels.coverage import is_same_convolution
from v2v_jax.system import hopper
from v2v_jax.system.hopper import Number

CHANNELS = 64  # of a voxel: one row of 128 bytes in shared memory
ROWS = 128  # voxels of a line at most: two products of 64
OUTPUTS = 8  # at most: the convolution's, padded to so many


def can_read_lines(layout: BlockLayout, kernel_shape: Sequence[int], padding, dtype) -> bool:
    """Whether Hopper's kernels cover a convolution of blocks: conv_pre's in V2V at full width."""
    return (
        hopper.available()
        and is_same_convolution(kernel_shape, padding, dtype)
        and kernel_shape[0] == 3
        and layout.channels == kernel_shape[3] == CHANNELS
        and kernel_shape[4] <= OUTPUTS
        and layout.blocks[2] * layout.strides[2] <= ROWS
        and min(layout.crop) >= 1  # tried with margins alone
    )


@dataclasses.dataclass(frozen=True)
class Lines:
    """Blocks (B,T',H',W',st·sh·sw·C) as lines (B·T'·H', W', st·sh, sw, C): a box a line of voxels.

    Attributes:
      layout: of the blocks.
      clips: B.
    """

    layout: BlockLayout
    clips: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The blocks' as lines."""
        (nt, nh, nw), (st, sh, sw) = self.layout.blocks, self.layout.strides
        return self.clips * nt * nh, nw, st * sh, sw, self.layout.channels

    @property
    def voxels(self) -> int:
        """Of a line, with the margins."""
        return self.layout.padded[2]

    def slice(self, inside: Any, clip: Number, frame: Number, line: Number) -> tuple:
        """Where a line lies, frame and line counted with the margins; if not inside, nowhere.

        What a copy reads from nowhere is zeros.
        """
        (nt, nh, _), (st, sh, _) = self.layout.blocks, self.layout.strides
        block = (clip * nt + frame // st) * nh + line // sh
        block = hopper.where(inside, block, self.shape[0])
        within = hopper.where(inside, frame % st * sh + line % sh, 0)
        every = slice(None)
        return block.value, every, within.value, every, every

    def buffer(self, ref: Any) -> Any:
        """(voxels,C) in shared memory in the shape of the box that is copied."""
        _, nw, _, sw, c = self.shape
        return hopper.reshaped(ref, (nw, sw, c))


def pad_outputs(x: jax.Array) -> jax.Array:
    """(…,K) → (…,8), with zeros."""
    missing = OUTPUTS - x.shape[-1]
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, missing),)) if missing else x
