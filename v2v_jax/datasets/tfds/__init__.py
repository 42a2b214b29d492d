"""Datasets of tensorflow-datasets, with random access to their frames."""
