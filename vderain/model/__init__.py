"""The networks, and files of weights."""
