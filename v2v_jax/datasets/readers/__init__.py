"""Readers of real data, one module a dataset."""
