"""How a convolution is computed on each platform; the only place that decides it."""
