"""C3D's pretrained weights, out of any file that they circulate in.

    params = load_c3d("conv3d_deepnetA_sport1m_iter_1900000")    # layer → kernel, bias
    v2v convert FILE --output=DIR                               # converts once

The format is recognised by content, not by name (`reading`). Nothing in a file is ever executed,
and no file makes the reader allocate more than it really holds. docs/reference/pretrained.md has
the rest.
"""

from v2v_jax.pretrained.reading import load_c3d, read_weights
from v2v_jax.pretrained.weights import Weights

__all__ = ["Weights", "load_c3d", "read_weights"]
