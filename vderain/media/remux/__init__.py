"""Copies the other streams of a source to an output; tags and dispositions are translated here."""

from collections.abc import Mapping

from av.stream import Stream

# Tags that describe the old file or its muxer, not the content.
_OF_THE_OLD_FILE = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "number_of_frames"}
    | {"number_of_bytes", "_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags"}
)
# ISO 639-2 has two codes for some languages. QuickTime's list has the second one of these.
_BIBLIOGRAPHIC = {
    "deu": "ger", "nld": "dut", "ell": "gre", "zho": "chi", "fas": "per", "ces": "cze", "slk": "slo", "ron": "rum",
    "sqi": "alb", "mkd": "mac", "msa": "may", "mya": "bur", "eus": "baq", "hye": "arm", "isl": "ice", "kat": "geo",
    "cym": "wel", "bod": "tib",
}  # fmt: skip


def portable_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that are as true of the output as of the source."""
    return {key: value for key, value in metadata.items() if key.lower().split("-")[0] not in _OF_THE_OLD_FILE}


def copy_tags(stream: Stream, source: Stream, copied: bool) -> None:
    """Gives a stream of an output the tags and dispositions of its source.

    Args:
        stream: of an output whose header is not written yet.
        source: of the source.
        copied: whether the packets are copied; the tag of their encoder then stays true.
    """
    tags = portable_tags(source.metadata)
    if copied:
        tags |= {key: value for key, value in source.metadata.items() if key.lower() == "encoder"}
    stream.metadata.update(tags_for(stream.container.format.name, tags))
    stream.disposition = source.disposition


def tags_for(muxer: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """A stream's tags under the names that a muxer knows."""
    tags = dict(metadata)
    if "name" in tags:  # as MP4 and MOV read back what their muxers want to be told as a title
        tags.setdefault("title", tags.pop("name"))
    if muxer == "mov" and "language" in tags:
        tags["language"] = _BIBLIOGRAPHIC.get(tags["language"], tags["language"])
    return tags


def same_language(one: str, other: str) -> bool:
    return _BIBLIOGRAPHIC.get(one, one) == _BIBLIOGRAPHIC.get(other, other)
