"""Kernels for what NVIDIA GPUs' libraries and XLA are slow at in V2V.

The first and last convolution have few channels on one side: conv1a reads 3, conv_pre writes as
many as the task has outputs. What takes the time there is moving the other side's 64 channels
through memory. The kernels therefore never write what is only read once: conv1a's output goes
straight through ReLU and pooling, and conv_pre reads the transposed convolution's blocks where they
lie, without the depth-to-space copy in between. docs/results/performance.md has the measurements.
All are in Pallas' Triton; what reads or writes conv_pre's blocks line by line (`conv_of_lines`,
`gradients_of_lines`) is for Hopper GPUs, see `v2v_jax.system.hopper`.

Arrays are (B,T,H,W,C), kernels (T,H,W,in,out). All functions are for one device, see
`v2v_jax.system.triton`; a batch whose arrays are too large to address is worked off in parts.
"""
