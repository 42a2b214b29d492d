"""Datasets that wrap another one: decoded frames on disk, flow labels."""
