"""Probes media files, repairs their packets, and decodes them to frames."""
