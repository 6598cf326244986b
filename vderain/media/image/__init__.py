"""Reads and writes still images, and folders of numbered images; their suffixes and order are defined here."""

import re

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
UNSUPPORTED_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A sort key that compares runs of digits by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
