"""Checks that an output can be written before any work, and verifies the finished file against its source.

Muxers drop what they cannot store without an error. Reading the file back finds it, so that it can be named.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vderain.errors import OutputError, UsageError
from vderain.media.decode.media_file import UNSPECIFIED, Chapter, MediaFile, VideoInfo, programs, stream_name
from vderain.media.decode.open import open_input
from vderain.media.encode import CAP_FACTOR, EncodeOptions
from vderain.media.remux import portable_tags, same_language

if TYPE_CHECKING:
    from vderain.media.remux.copier import StreamCopier

_LOSSY_BITS_PX = 1.0  # more than any frame needs at the default quality
_PRORES_BITS_PX = 3.0  # of ProRes HQ; https://www.apple.com/final-cut-pro/docs/Apple_ProRes.pdf has 3.5 at 1080p30
_KEEPS_LARGE = (".mkv", ".mov")  # where a source in FFV1 or ProRes stays what it is
_LOSSLESS_SHARE = 0.25  # of the uncompressed frames: clean footage; noise takes twice as much and more
_OF_THE_MUXER = frozenset({"handler_name", "vendor_id", "filename", "mimetype", "rotate", "name"})
_DEFAULTS = Disposition.default | Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_COORDINATE = re.compile(r"[+-]\d+(?:\.\d*)?")
_PLACE_TICK_DEG = 1e-4
_CHAPTER_TICK_S = Fraction(1, 500)  # two units of Matroska's and Nero's chapters


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenVideo:
    """The video stream that a finished file has to have.

    Attributes:
        stream_index: of the output.
        frames: how many were written.
        first_s, last_s: times of the first and the last frame.
        sample_aspect_ratio: width of a pixel over its height, or None.
        chapters: of the output.
    """

    stream_index: int
    frames: int
    first_s: Fraction
    last_s: Fraction
    sample_aspect_ratio: Fraction | None
    chapters: list[Chapter]


def verify_output(path: Path, wanted: WrittenVideo, copier: "StreamCopier") -> list[str]:
    """Reads the packets, tags and chapters of a finished file back.

    Args:
        path: the file.
        wanted: what its video stream has to be.
        copier: which copied the other streams.

    Returns:
        Names of what was lost; lost streams are moved to ``copier.dropped`` instead.

    Raises:
        OutputError: the frames do not read back as they were written.
    """
    with open_input(path) as container:
        stream = _video_stream(container, wanted.stream_index)
        _check_frames(container, stream, wanted)
        lost = []
        # PyAV gives Matroska's muxer no way to know the shape of a pixel.
        if wanted.sample_aspect_ratio not in (None, 1) and stream.sample_aspect_ratio != wanted.sample_aspect_ratio:
            lost.append(f"pixel aspect ratio {wanted.sample_aspect_ratio}")
        copier.check(container)
        lost += _lost_metadata(container, stream, wanted, copier)
    return lost


def lost_in_frames(before: VideoInfo, after: VideoInfo, side_data: Iterable[str]) -> list[str]:
    """Names what the frames of a finished file do not say any more: side data and colour tags.

    Args:
        before: the source's video stream.
        after: the finished file's.
        side_data: descriptions of side data that the source's frames carried.
    """
    return [part for part in side_data if part not in after.lost_side_data] + lost_colour(before, after)


def _video_stream(container: InputContainer, index: int) -> VideoStream:
    stream = next((stream for stream in container.streams.video if stream.index == index), None)
    if stream is None:
        raise OutputError("The finished file does not read back as written (no video).", "Write .mkv, and report this.")
    return stream


def _check_frames(container: InputContainer, stream: VideoStream, wanted: WrittenVideo) -> None:
    """Compares the number of frames, and the times of the first and the last one."""
    count = 0
    times_s: list[Fraction] = []
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard and packet.pts is not None:
            count += 1
            time_s = packet.pts * packet.time_base
            times_s = [min([*times_s, time_s]), max([*times_s, time_s])]
    tick_s = stream.time_base or Fraction(0)
    pairs = zip(times_s, (wanted.first_s, wanted.last_s), strict=False)
    if count != wanted.frames or not all(abs(a - b) <= tick_s / 2 for a, b in pairs):
        raise OutputError(
            f"The finished file does not read back as written ({count} of {wanted.frames} frames).",
            "Write another container such as .mkv, and report this.",
        )


def _lost_metadata(
    container: InputContainer, stream: VideoStream, wanted: WrittenVideo, copier: "StreamCopier"
) -> list[str]:
    """Names the tags, dispositions and chapters that the muxer left out."""
    lost = lost_of_file(copier.source, container)
    if "timecode" in stream.metadata:  # MP4 makes a track of a file's
        lost = [name for name in lost if name != "tag timecode"]
    pairs = [(copier.main_stream, stream), *copier.pairs(container, wanted.stream_index)]
    lost += lost_of_streams(pairs, container.metadata)
    return lost + lost_chapters(wanted.chapters, container.chapters())


def lost_tags(before: Mapping[str, str], after: Mapping[str, str], ignored: Iterable[str] = ()) -> list[str]:
    """Names of the tags that are missing or have another value.

    Args:
        before: tags of the source.
        after: tags of the output.
        ignored: names that do not count.
    """
    there = {key.lower(): value for key, value in after.items()}
    left_out = _OF_THE_MUXER | set(ignored)
    return sorted(
        key for key, value in portable_tags(before).items()
        if key.lower() not in left_out and not _same(key.lower(), value, there.get(key.lower()))
    )  # fmt: skip


def lost_of_file(source: InputContainer, written: InputContainer) -> list[str]:
    """Descriptions of the lost tags and programs of the file itself."""
    return [f"tag {key}" for key in lost_tags(source.metadata, written.metadata)] + joined_programs(source)


def joined_programs(source: InputContainer) -> list[str]:
    """A description of the programs of a transport stream if there are several: they are joined into one."""
    count = programs(source)
    return [f"{count} programs (their streams are in one)"] if count > 1 else []


def lost_of_streams(pairs: Iterable[tuple[Stream, Stream]], of_file: Mapping[str, str]) -> Iterator[str]:
    """Descriptions of the lost tags and dispositions of streams.

    Args:
        pairs: streams of the source and what they became.
        of_file: the written file's own tags; a stream's time of recording that they repeat is not lost.
    """
    for before, after in pairs:
        stamp = "creation_time"
        repeated = (stamp,) if before.metadata.get(stamp) == of_file.get(stamp) else ()
        metadata = {**after.metadata, "title": after.metadata.get("title", after.metadata.get("name", ""))}
        for key in lost_tags(before.metadata, metadata, repeated):
            yield f"tag {key} of {stream_name(before)}"
        for flag in Disposition:
            if flag & before.disposition & ~after.disposition & ~_DEFAULTS:
                yield f"mark {flag.name} of {stream_name(before)}"


def lost_colour(before: VideoInfo, after: VideoInfo) -> list[str]:
    """Descriptions of the colour and HDR metadata that the output lacks."""
    if before.colour.matrix == "rgb":
        return []  # RGB needs no matrix, and where it became YCbCr the encoder was told which
    a, b = before.tags, after.tags
    names = ("primaries", "transfer", "matrix")
    lost = [name for name in names if getattr(a, name) not in (UNSPECIFIED, getattr(b, name))]
    if before.colour.full_range != after.colour.full_range:
        lost.append("range")
    if (a.chroma_location or "left") != (b.chroma_location or "left") and before.colour.chroma_w > 1:
        lost.append("chroma location")
    named = [f"colour tags ({', '.join(lost)})"] if lost else []
    return named + (["HDR metadata"] if before.light and not after.light else [])


def lost_chapters(wanted: list[Chapter], written: list[Chapter]) -> list[str]:
    """Descriptions of chapters that are missing, end elsewhere, or have lost tags."""
    if not wanted:
        return []
    before, after = _spans(wanted), _spans(written)
    if len(before) != len(after) or any(
        a[2] != b[2] or abs(a[0] - b[0]) > _CHAPTER_TICK_S for a, b in zip(before, after, strict=True)
    ):
        return ["chapters"]
    ends = sum(abs(a[1] - b[1]) > _CHAPTER_TICK_S for a, b in zip(before[:-1], after[:-1], strict=True))
    lost = ["ends of chapters (each lasts until the next)"] if ends else []
    both = zip(wanted, written, strict=True)
    tags = {key.lower() for a, b in both for key in lost_tags(a["metadata"], b["metadata"], ("title",))}
    return lost + ([f"tags of chapters ({', '.join(sorted(tags))})"] if tags else [])


def _spans(chapters: list[Chapter]) -> list[tuple[Fraction, Fraction, str]]:
    found = []
    for chapter in chapters:
        base = chapter["time_base"] or Fraction(1, av.time_base)
        titles = {key.lower(): value for key, value in chapter["metadata"].items()}
        found.append((chapter["start"] * base, chapter["end"] * base, titles.get("title", "")))
    return found


def _same(key: str, before: str, after: str | None) -> bool:
    if after is None:
        return (key, before) == ("language", "und")
    if key == "language":
        return same_language(before, after)
    if key == "timecode":
        return True  # that of the first frame, which may differ
    if key == "creation_time":
        return before[:19] == after[:19]
    return before == after or (key == "location" and _same_place(before, after))


def _same_place(before: str, after: str) -> bool:
    """Whether two places of ISO 6709 are one, as far as MP4 counts: to four digits of a degree."""
    one, other = ([float(number) for number in _COORDINATE.findall(place)] for place in (before, after))
    pairs = zip_longest(one, other, fillvalue=0.0)  # an altitude of 0 is left out
    return min(len(one), len(other)) >= 2 and all(abs(a - b) <= _PLACE_TICK_DEG for a, b in pairs)
