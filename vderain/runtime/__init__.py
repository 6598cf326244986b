"""Threads, devices and memory, and files of the operating system: independent of video and rain."""
