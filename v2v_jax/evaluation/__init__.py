"""Measuring a trained network: metrics, reports, temporal consistency."""
