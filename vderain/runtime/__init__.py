"""Threads, memory, profiling, device and temporary files: independent of video and rain."""
