"""Eight bits a weight by layers: which kernels are rounded, and scales of least squares."""

import numpy as np

from experiments import weight_bits
from v2v_jax.run.weight_file import dequantize, quantize


def layer(seed, shape=(3, 3, 3, 4, 6)):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal(shape).astype(np.float32)
    return {"kernel": kernel, "bias": rng.standard_normal(shape[-1]).astype(np.float32)}


def test_which_kernels_are_rounded():
    params = {name: layer(k) for k, name in enumerate(("conv1a", "conv2a", "conv_pre"))}
    kept = []
    for _, found in weight_bits.variants(params):
        assert all(found[name]["bias"] is params[name]["bias"] for name in params)
        same = lambda name, found=found: np.array_equal(
            found[name]["kernel"], params[name]["kernel"]
        )
        kept.append({name for name in params if same(name)})
    ends = {"conv1a", "conv_pre"}
    assert kept == [{*ends, "conv2a"}, set(), {"conv_pre"}, {"conv1a"}, ends, set()]


def test_scales_of_least_squares():
    """An output of one large value and many alike ones: it is worth cutting the large one.

    Steps of 10 / 127 = 0.0787 make 0.0787 of 0.047, an error of 0.0317² · 9,999 = 10.1. At 0.9 of
    the step it is 0.0239² · 9,999 + 1² = 6.7.
    """
    kernel = np.full((1, 1, 10000, 1, 1), 0.047, np.float32)
    kernel[0, 0, 0] = 10
    kernel = np.concatenate([kernel, layer(1, (1, 1, 10000, 1, 3))["kernel"]], -1)
    error = lambda found: np.square(np.float64(dequantize(*found)) - kernel).sum((0, 1, 2, 3))
    codes, scales = weight_bits.least_squares(kernel)
    assert codes.dtype == np.int8 and np.abs(codes).max() <= 127
    found, plain = error((codes, scales)), error(quantize(kernel))
    assert (found <= plain * (1 + 1e-5)).all()
    assert abs(plain[0] - 10.1) < 0.1 and found[0] < 6.8
    wide, largest = np.float64(kernel), np.abs(kernel).max((0, 1, 2, 3)) / 127
    slow = np.inf
    for share in np.linspace(0.6, 1, 41):
        step = share * largest
        tried = np.clip(np.round(wide / step), -127, 127) * step
        slow = np.minimum(slow, np.square(tried - wide).sum((0, 1, 2, 3)))
    np.testing.assert_allclose(found, slow, rtol=1e-3)
