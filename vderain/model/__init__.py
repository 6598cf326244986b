"""The networks, checkpoints and released weights."""
