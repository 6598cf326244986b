"""Checks before any work that an output can be written, and chooses the options of its muxer."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import av

from vderain.errors import OutputError, UsageError
from vderain.media.decode.media_file import MediaFile, StreamInfo
from vderain.media.encode import CAP_FACTOR, EncodeOptions
from vderain.media.remux.metadata import portable_tags

_LOSSY_BITS_PX = 1.0  # more than any frame needs at the default quality
_PRORES_BITS_PX = 3.0  # of ProRes HQ; https://www.apple.com/final-cut-pro/docs/Apple_ProRes.pdf has 3.5 at 1080p30
_KEEPS_LARGE = (".mkv", ".mov")  # where a source in FFV1 or ProRes stays what it is
_LOSSLESS_SHARE = 0.25  # of the uncompressed frames: clean footage; noise takes twice as much and more
_INT32_MAX = 2**31 - 1
_MP4_SCALE = 1000  # units a second of a movie's own clock, as most programs write it
_MP4_LIKE = ("mp4", "mov")
# What MP4 and MOV hold in their classic boxes, which every program reads.
_CLASSIC_TAGS = frozenset(
    {"title", "artist", "album_artist", "album", "composer", "comment", "copyright", "date", "description", "genre"}
    | {"grouping", "keywords", "lyrics", "network", "show", "synopsis", "episode_id", "creation_time", "timecode"}
)
_CLASSIC_MOV_TAGS = frozenset({"make", "model", "location"})


def check_target(target: Path, media: MediaFile, share: float, options: EncodeOptions) -> None:
    """Checks before any work that the output can be written.

    Args:
        target: the file to write.
        media: the source.
        share: the part of the source's duration that is read, 0..1.
        options: codec and quality, for an estimate of the size.

    Raises:
        OutputError: the folder is missing, read-only or has too little space.
        UsageError: the target is the source.
    """
    folder = target.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"The folder '{folder}' does not exist.", "Create it, or choose another output.")
    if target.is_dir():
        raise OutputError(f"'{target}' is a directory.", "Give the name of a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"'{folder}' may not be written to.", "Choose another folder for the output.")
    if target.exists() and target.samefile(media.path):
        raise UsageError(f"'{target}' is the input itself.", "Choose another name for the output.")
    need_bytes = _expected_bytes(target, media, share, options)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise OutputError(
            f"'{folder}' has {_megabytes(free_bytes)} free and about {_megabytes(need_bytes)} are needed.",
            "Free some space or choose another folder.",
        )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 10e6 else f"{size / 1e6:.1f} MB"


def _expected_bytes(target: Path, media: MediaFile, share: float, options: EncodeOptions) -> float:
    """A low estimate of the size of the output, so that a run is not refused without need."""
    info = media.video
    codec = options.codec or (info.codec if target.suffix.lower() in _KEEPS_LARGE else None)
    pixels = info.width_px * info.height_px * (info.frames_estimate or 0)
    if options.lossless or codec == "ffv1":
        pixel = av.VideoFormat(info.pixel_format, 64, 64)
        return float(pixels * pixel.bits_per_pixel * _LOSSLESS_SHARE / 8)
    if codec in ("prores", "prores_ks"):
        return pixels * _PRORES_BITS_PX / 8
    source_bytes = media.path.stat().st_size * share * CAP_FACTOR
    source = av.Codec(info.codec, "r")
    shrinks = pixels and (source.intra_only or not source.lossy)  # into a codec that is neither
    return min(source_bytes, pixels * _LOSSY_BITS_PX / 8) if shrinks else source_bytes


def muxer_options(muxer: str, media: MediaFile, cuts_front: bool, recoded: Sequence[StreamInfo]) -> dict[str, str]:
    """Options that make the container keep time exactly.

    Args:
        muxer: FFmpeg's name.
        media: the source.
        cuts_front: whether timestamps restart at the first frame delivered.
        recoded: the audio streams that will be encoded again.
    """
    options = {"avoid_negative_ts": "disabled"}  # else one early audio packet would shift every frame
    if muxer in _MP4_LIKE:
        scale = media.video.time_base.denominator
        flags = "+faststart"
        classic = _CLASSIC_TAGS | (_CLASSIC_MOV_TAGS if muxer == "mov" else frozenset())
        if portable_tags(media.tags).keys() - classic:
            flags += "+use_metadata_tags"  # keys such as com.apple.quicktime.make have no classic tag
        options |= {
            "movflags": flags,
            "video_track_timescale": str(scale),
            "movie_timescale": str(_movie_scale(media, cuts_front, recoded)),
        }
    return options


def _movie_scale(media: MediaFile, cuts_front: bool, recoded: Sequence[StreamInfo]) -> int:
    """A time scale for edit lists in which the start offsets of all streams are whole numbers.

    MP4's usual clock of 1 ms is kept where it will do, because old players know only 32 bits of it.
    """
    starts = [stream.start_s for stream in media.streams if stream.start_s is not None]
    bases = [stream.time_base.denominator for stream in media.streams if stream.time_base]
    # Audio that is encoded again begins earlier, by a lead-in counted in samples.
    bases += [stream.sample_rate_hz for stream in recoded if stream.sample_rate_hz]
    moves = cuts_front or media.video.start_pts < 0 or recoded
    if not moves and all((start * _MP4_SCALE).denominator == 1 or start < 0 for start in starts):
        return _MP4_SCALE
    scale = media.video.time_base.denominator
    for base in bases:
        common = math.lcm(scale, base)
        scale = common if common <= _INT32_MAX else scale
    return scale
