"""Rendering rain onto clear pictures."""
