"""Owns what is settled about an output file before and beside its frames: a name enters, checks and options leave."""

import math
import os
import shutil
from pathlib import Path

from vderain.errors import OutputError, UsageError
from vderain.video.reader import VideoReader
from vderain.video.source import open_input
from vderain.video.streams import DISK_ERRORS

SIZE_FACTOR = 1.3  # of the source: the output at the default quality is rarely larger
_INT32_MAX = 2**31 - 1
_MP4_SCALE = 1000  # units a second of a movie's own clock, as most programs write it
_MP4_LIKE = ("mp4", "mov")
# What describes the old file, not its content; Matroska's statistics carry a language behind a dash.
_OF_THE_OLD_FILE = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "number_of_frames"}
    | {"number_of_bytes", "_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags"}
)


def output_error(target: Path, error: Exception) -> OutputError:
    """What a failure of FFmpeg or the system means for the output."""
    number = getattr(error, "errno", None)
    if number in (28, 122):  # ENOSPC, EDQUOT
        return OutputError(
            f"The disk is full: '{target}' was not written.", "Free some space or choose another folder."
        )
    if number in DISK_ERRORS:
        return OutputError(f"'{target}' cannot be written ({os.strerror(number or 5)}).", "Check the disk.")
    if isinstance(error, PermissionError):
        return OutputError(f"'{target.parent}' may not be written to.", "Choose another folder for the output.")
    return OutputError(f"'{target}' cannot be written ({error}).", "Try another container or codec, such as .mkv.")


def check_target(target: Path, reader: VideoReader) -> None:
    """Finds before any work what would make the output fail after it."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"The folder '{folder}' does not exist.", "Create it, or choose another output.")
    if target.is_dir():
        raise OutputError(f"'{target}' is a directory.", "Give the name of a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"'{folder}' may not be written to.", "Choose another folder for the output.")
    if target.exists() and target.samefile(reader.path):
        raise UsageError(f"'{target}' is the input itself.", "Choose another name for the output.")
    need_bytes = int(reader.path.stat().st_size * reader.share * SIZE_FACTOR)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise OutputError(
            f"'{folder}' has {free_bytes / 1e6:.0f} MB free and about {need_bytes / 1e6:.0f} MB are needed.",
            "Free some space or choose another folder.",
        )


def muxer_options(muxer: str, reader: VideoReader) -> dict[str, str]:
    """Options that make the container keep time exactly."""
    options = {"avoid_negative_ts": "disabled"}  # else one early audio packet would shift every frame
    if muxer in _MP4_LIKE:
        scale = reader.info.time_base.denominator
        flags = "+faststart"
        if any("." in key for key in _metadata(reader)):
            flags += "+use_metadata_tags"  # keys such as com.apple.quicktime.make have no classic MP4 tag
        options |= {
            "movflags": flags,
            "video_track_timescale": str(scale),
            "movie_timescale": str(_movie_scale(reader)),
        }
    return options


def lasting(metadata: dict[str, str]) -> dict[str, str]:
    """The metadata that is as true of the output as of the source."""
    return {key: value for key, value in metadata.items() if key.lower().split("-")[0] not in _OF_THE_OLD_FILE}


def _metadata(reader: VideoReader) -> dict[str, str]:
    with open_input(reader.path) as container:
        return dict(container.metadata)


def _movie_scale(reader: VideoReader) -> int:
    """A clock for edit lists in which the start offsets of all streams are whole numbers.

    MP4's usual clock of 1 ms is kept where it will do, because old players know only 32 bits of it.
    """
    with open_input(reader.path) as container:
        starts = [(s.start_time or 0) * s.time_base for s in container.streams if s.time_base]
        bases = [s.time_base.denominator for s in container.streams if s.time_base]
    moves = reader.cuts_front or reader.info.start_pts < 0
    if not moves and all((start * _MP4_SCALE).denominator == 1 or start < 0 for start in starts):
        return _MP4_SCALE
    scale = reader.info.time_base.denominator
    for base in bases:
        common = math.lcm(scale, base)
        scale = common if common <= _INT32_MAX else scale
    return scale
