"""Brox's optical flow: the teacher that made the paper's labels."""
