"""From stored frames to the network's input: clips, preprocessing, feeds."""
