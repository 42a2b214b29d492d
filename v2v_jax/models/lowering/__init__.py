"""How the network's operations are computed on each platform.

`choice` decides, `convolution`, `pooling` and `transposed` carry it out with their gradients, in
one of the `forms` or by one of `v2v_jax.models.kernels`. Nothing else knows of platforms.
"""
