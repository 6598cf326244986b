"""How many bits a source spends on its pictures: a file enters, its mean rate and its unevenness leave."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from vderain.errors import VderainError
from vderain.media.decode.open import open_input

_INDEX_SHARE = 0.9  # of the frames: some formats list their key frames only


@dataclass(frozen=True, slots=True)
class SourceRate:
    """What a video stream takes of its file.

    Attributes:
        bits_s: bits a second, on average.
        burst_bits: by how much the stream runs ahead of that average at its worst; 0 for one of even rate. None where
            the file does not tell before it is read.
    """

    bits_s: float
    burst_bits: float | None


def source_rate(path: Path, stream_index: int) -> SourceRate | None:
    """The rate of a video stream, by the index of its file; None where nothing is known of it."""
    try:
        with open_input(path) as container:
            stream = container.streams[stream_index]
            return _by_index(stream) or _by_totals(container, stream)
    except (VderainError, av.error.FFmpegError):  # its reader will say so
        return None


def _by_index(stream: Any) -> SourceRate | None:
    entries = [(entry.timestamp, entry.size) for entry in stream.index_entries]
    if len(entries) < max(2.0, _INDEX_SHARE * stream.frames) or not stream.frames:
        return None
    ticks, sizes = np.array(sorted(entries), np.float64).T
    times_s = (ticks - ticks[0]) * float(stream.time_base)
    bits = 8 * sizes
    length_s = times_s[-1] * len(entries) / (len(entries) - 1)  # the last picture is shown for a while too
    if length_s <= 0 or bits.sum() <= 0:
        return None
    bits_s = bits.sum() / length_s
    after = np.cumsum(bits) - bits_s * times_s  # how full a bucket is that empties at the average rate
    before = after - bits
    return SourceRate(float(bits_s), float((after - np.minimum.accumulate(before)).max()))


def _by_totals(container: Any, stream: Any) -> SourceRate | None:
    if stream.codec_context is not None and stream.codec_context.bit_rate:
        return SourceRate(float(stream.codec_context.bit_rate), None)
    if not container.duration or not container.size:
        return None
    others = sum(s.codec_context.bit_rate or 0 for s in container.streams.audio if s.codec_context is not None)
    total = 8 * container.size / (container.duration / av.time_base)
    return SourceRate(total - others, None) if total > others else None
