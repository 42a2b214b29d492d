"""V2V in PyTorch, for comparison: the same layers, sizes and parameters."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

TRUNK = {
    "conv1a": (3, 64), "conv2a": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256),
    "conv4a": (256, 512), "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512),
}  # fmt: skip


WITHOUT_RELU = ("conv4c", "conv3c")


class Standardized(nn.Module):
    """A kernel of mean 0 and variance c / fan-in, times a gain of its own for every output."""

    def __init__(self, conv: nn.Conv3d | nn.ConvTranspose3d, relu: bool):
        super().__init__()
        transposed = isinstance(conv, nn.ConvTranspose3d)
        output = 1 if transposed else 0
        self.axes = [axis for axis in range(5) if axis != output]
        self.fan_in = conv.in_channels * math.prod(conv.kernel_size)
        self.fan_in /= math.prod(conv.stride) if transposed else 1
        self.c = 2.0 if relu else 1.0
        shape = [1] * 5
        shape[output] = conv.out_channels
        self.gain = nn.Parameter(torch.ones(shape))

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        """W → W'."""
        variance, mean = torch.var_mean(kernel, self.axes, correction=0, keepdim=True)
        scale = torch.sqrt(self.c / torch.clamp(self.fan_in * variance, min=1e-4))
        return (kernel - mean) * (self.gain * scale)


class PyTorchV2V(nn.Module):
    """(B,3,T,H,W) → (B,K,T,H,W); `standardized`: all kernels but conv_pre's, as V2V's are."""

    def __init__(self, num_outputs: int, standardized: bool = False):
        super().__init__()
        sizes = TRUNK | {"conv4c": (512, 64), "conv3c": (256, 64), "conv_pre": (64, num_outputs)}
        for name, (cin, cout) in sizes.items():
            setattr(self, name, nn.Conv3d(cin, cout, 3, padding=1))
        self.deconv5 = nn.ConvTranspose3d(512, 64, 4, 2, 1)
        self.deconv4 = nn.ConvTranspose3d(128, 64, 4, 2, 1)
        self.deconv3 = nn.ConvTranspose3d(128, 64, (4, 8, 8), (2, 4, 4), (1, 2, 2))
        for name, conv in list(self.named_children()) if standardized else []:
            if name != "conv_pre":
                change = Standardized(conv, relu=name not in WITHOUT_RELU)
                parametrize.register_parametrization(conv, "weight", change)

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
