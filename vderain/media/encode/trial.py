"""Asks encoders and muxers by letting them work: their names enter, whether one small picture comes through leaves."""

import os
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from typing import Any

import av

from vderain.media.pixel_format import Layout, choose_layout

_SIDE_PX = 256  # hardware refuses much smaller pictures
_RATE = Fraction(25)


def quieten(encoder: str) -> None:
    """SVT-AV1 writes to the terminal by itself and listens only to the environment, once, when it is first used."""
    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")


def offered_formats(codec: Any) -> list[str]:
    """The pixel formats that an encoder names; none where it takes what it is given."""
    return [pixel.name for pixel in codec.video_formats or ()]


def encodes(encoder: str, options: Mapping[str, str], pixel_format: str | None = None) -> bool:
    """Whether an encoder really works here.

    Args:
        encoder: FFmpeg's name.
        options: for the encoder.
        pixel_format: of the picture; None takes one near 4:2:0 of 8 bits.
    """
    quieten(encoder)
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.time_base = 1 / _RATE
        picture = _prepared(context, options, pixel_format)
        return bool(context.encode(picture) + context.encode(None))
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def holds(muxer: str, encoder: str, options: Mapping[str, str]) -> bool:
    """Whether what an encoder writes into a container reads back as what it is.

    Muxers do not tell when they are asked: MOV's knows AV1 and refuses it at the header, a transport stream takes
    anything as data that nobody can read. Where the encoder does not take the picture of the trial it holds it, as far
    as can be known.

    Args:
        muxer: FFmpeg's name.
        encoder: FFmpeg's name.
        options: for the encoder.
    """
    quieten(encoder)
    return _holds(muxer, encoder, tuple(options.items()))


@lru_cache(maxsize=64)
def _holds(muxer: str, encoder: str, options: tuple[tuple[str, str], ...]) -> bool:
    memory = BytesIO()
    try:
        with av.open(memory, "w", format=muxer) as output:
            stream: Any = output.add_stream(encoder, rate=_RATE)
            try:
                picture = _prepared(stream.codec_context, dict(options))
                packets = stream.encode(picture) + stream.encode(None)
            except (av.error.FFmpegError, ValueError, OSError):
                return True  # a matter between the encoder and the picture
            output.mux(packets)
        memory.seek(0)
        with av.open(memory) as written:
            codecs = [each.codec_context.codec for each in written.streams.video if each.codec_context is not None]
            return [codec.canonical_name for codec in codecs] == [stream.codec_context.codec.canonical_name]
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def _prepared(context: Any, options: Mapping[str, str], pixel_format: str | None = None) -> av.VideoFrame:
    """A grey picture, for which the encoder has been set up."""
    nearest = choose_layout(Layout("yuv", 8, 2, 2), offered_formats(context.codec)) or "yuv420p"
    context.width = context.height = _SIDE_PX
    context.pix_fmt = pixel_format or nearest
    context.options = dict(options)
    picture = av.VideoFrame(_SIDE_PX, _SIDE_PX, context.pix_fmt)
    picture.pts = 0
    return picture
