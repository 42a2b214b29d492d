"""From a trained network to predictions of any video."""
