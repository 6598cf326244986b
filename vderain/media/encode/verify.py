"""Owns the second look: a source and the file written from it enter, what of the first is not in the second leaves.

Muxers drop what they have no place for without a word. Here it is found by reading, so that it can be named.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import zip_longest
from typing import Any

from av.stream import Disposition

from vderain.media.decode.media_file import VideoInfo
from vderain.media.decode.open import programs, stream_name
from vderain.media.pixel_format import UNSPECIFIED
from vderain.media.remux.metadata import portable_tags, same_language

_OF_THE_MUXER = frozenset({"handler_name", "vendor_id", "filename", "mimetype", "rotate", "name"})
_DEFAULTS = Disposition.default | Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_COORDINATE = re.compile(r"[+-]\d+(?:\.\d*)?")
_PLACE_TICK_DEG = 1e-4
_CHAPTER_TICK_S = Fraction(1, 500)  # two units of Matroska's and Nero's chapters


def lost_tags(before: Mapping[str, str], after: Mapping[str, str], ignored: Iterable[str] = ()) -> list[str]:
    """Names of the tags that are not there any more, or say something else."""
    there = {key.lower(): value for key, value in after.items()}
    left_out = _OF_THE_MUXER | set(ignored)
    return sorted(
        key for key, value in portable_tags(before).items()
        if key.lower() not in left_out and not _same(key.lower(), value, there.get(key.lower()))
    )  # fmt: skip


def lost_of_file(source: Any, written: Any) -> list[str]:
    """Tags and programs of the file itself, in words."""
    return [f"tag {key}" for key in lost_tags(source.metadata, written.metadata)] + joined_programs(source)


def joined_programs(source: Any) -> list[str]:
    """The programs of a transport stream, in words, where there are several: every muxer makes one of them."""
    count = programs(source)
    return [f"{count} programs (their streams are in one)"] if count > 1 else []


def lost_of_streams(pairs: Iterable[tuple[Any, Any]], of_file: Mapping[str, str]) -> Iterator[str]:
    """Tags and marks of streams, in words.

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
    """What of the meaning of code values the output does not say, in words."""
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


def lost_chapters(wanted: list[Any], written: list[Any]) -> list[str]:
    """Chapters that are gone, do not end where they ended, or have lost tags."""
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


def _spans(chapters: list[Any]) -> list[tuple[Fraction, Fraction, str]]:
    found = []
    for chapter in chapters:
        base = chapter["time_base"]
        titles = {key.lower(): value for key, value in chapter["metadata"].items()}
        found.append((chapter["start"] * base, chapter["end"] * base, titles.get("title", "")))
    return found


def _same(key: str, before: str, after: str | None) -> bool:
    if after is None:
        return (key, before) == ("language", "und")
    if key == "language":
        return same_language(before, after)
    if key == "timecode":
        return True  # that of the first picture, which may be another one
    if key == "creation_time":
        return before[:19] == after[:19]
    return before == after or (key == "location" and _same_place(before, after))


def _same_place(before: str, after: str) -> bool:
    """Whether two places of ISO 6709 are one, as far as MP4 counts: to four digits of a degree."""
    one, other = ([float(number) for number in _COORDINATE.findall(place)] for place in (before, after))
    pairs = zip_longest(one, other, fillvalue=0.0)  # an altitude of 0 is left out
    return min(len(one), len(other)) >= 2 and all(abs(a - b) <= _PLACE_TICK_DEG for a, b in pairs)
