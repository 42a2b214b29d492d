"""Datasets that wrap another one: decoded frames on disk, a teacher's labels."""
