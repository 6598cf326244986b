"""Frames in, clear frames out."""
