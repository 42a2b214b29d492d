"""V2V in PyTorch, for comparison: the same layers, sizes and parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

TRUNK = {
    "conv1a": (3, 64), "conv2a": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256),
    "conv4a": (256, 512), "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512),
}  # fmt: skip


class PyTorchV2V(nn.Module):
    """(B,3,T,H,W) → (B,K,T,H,W)."""

    def __init__(self, num_outputs: int):
        super().__init__()
        sizes = TRUNK | {"conv4c": (512, 64), "conv3c": (256, 64), "conv_pre": (64, num_outputs)}
        for name, (cin, cout) in sizes.items():
            setattr(self, name, nn.Conv3d(cin, cout, 3, padding=1))
        self.deconv5 = nn.ConvTranspose3d(512, 64, 4, 2, 1)
        self.deconv4 = nn.ConvTranspose3d(128, 64, 4, 2, 1)
        self.deconv3 = nn.ConvTranspose3d(128, 64, (4, 8, 8), (2, 4, 4), (1, 2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        relu = lambda name, x: F.relu(getattr(self, name)(x))
        x = F.max_pool3d(relu("conv1a", x), (1, 2, 2))
        x = F.max_pool3d(relu("conv2a", x), 2)
        conv3b = relu("conv3b", relu("conv3a", x))
        conv4b = relu("conv4b", relu("conv4a", F.max_pool3d(conv3b, 2)))
        conv5b = relu("conv5b", relu("conv5a", F.max_pool3d(conv4b, 2)))
        x = torch.cat([relu("deconv5", conv5b), self.conv4c(conv4b)], 1)
        x = torch.cat([relu("deconv4", x), self.conv3c(conv3b)], 1)
        return self.conv_pre(relu("deconv3", x))
