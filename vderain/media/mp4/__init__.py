"""Boxes of MP4 and MOV files that FFmpeg does not handle."""
