"""Owns subtitles of text that a container cannot hold as they are: their packets enter, the same words leave."""

import html
import re
from collections.abc import Iterator
from typing import Any

import av

from vderain.media.decode.open import codec_name
from vderain.media.remux.metadata import copy_tags

_PLAIN = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}  # what each muxer holds
_TEXTS = frozenset({"subrip", "webvtt", "mov_text", "ass", "text"})
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # of SubRip and WebVTT, of ASS
_ASS_FIELDS = 8  # before the text: order, layer, style, name, three margins, effect


def fallback_codec(muxer: str, stream: Any) -> str | None:
    """The codec in which a container holds the words of subtitles; None where it holds none, or they are pictures."""
    if stream.type != "subtitle" or codec_name(stream) not in _TEXTS:
        return None
    return _PLAIN.get(muxer)


class Rewriter:
    """Writes the words of subtitles without their styles, at the same instants.

    Args:
        output: the output container, not yet begun.
        source: the stream whose packets will come.
        codec: of `substitute`.

    Attributes:
        stream: of the output.
    """

    def __init__(self, output: Any, source: Any, codec: str) -> None:
        self.stream: Any = output.add_mux_stream(codec)
        self.stream.time_base = source.time_base
        copy_tags(self.stream, source, copied=False)
        self._from, self._to = codec_name(source), codec

    def __call__(self, packet: Any | None) -> Iterator[Any]:
        """The packet with the same words (None: there are no more)."""
        if packet is None:
            return
        words = _words(bytes(packet), self._from)
        if not words:
            return
        data = words.encode()
        written = av.Packet(len(data).to_bytes(2, "big") + data if self._to == "mov_text" else data)
        written.pts, written.dts, written.duration = packet.pts, packet.dts, packet.duration
        written.time_base, written.is_keyframe = packet.time_base, True
        yield written


def _words(data: bytes, codec: str) -> str:
    """The text of one subtitle, its lines apart, without markup."""
    if codec == "mov_text":  # a length, the text, and boxes of styles behind it
        return data[2 : 2 + int.from_bytes(data[:2], "big")].decode(errors="replace")
    text = data.decode(errors="replace")
    if codec == "ass":
        text = text.split(",", _ASS_FIELDS)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    text = _MARKUP.sub("", text)
    return (html.unescape(text) if codec == "webvtt" else text).strip()
