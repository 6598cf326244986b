"""Reads and writes video files and images as frames; the only package that uses PyAV."""
