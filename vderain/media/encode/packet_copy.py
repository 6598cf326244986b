"""Copies groups of pictures that did not change from an H.264 source, packet by packet, between encoded stretches.

What is copied begins with an IDR picture and ends before the next one, so that it refers to nothing outside. Encoder
and source number their parameter sets differently, and the header of the track has both. Before a file is written,
its first group is written to memory between encoded frames, and decoded again.
"""

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain, dropwhile, islice, zip_longest
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vderain.errors import OutputError, VderainError
from vderain.media.decode.media_file import FALLBACK_RATE, Crop, MediaFile, Packet
from vderain.media.decode.open import main_video, open_input, read_packets
from vderain.media.decode.timestamps import is_joinable
from vderain.media.encode.encoder import FrameEncoder
from vderain.media.encode.h264 import IDR, PPS, SPS, ParameterSets, annex_b, kind_of
from vderain.media.frame import Frame

log = logging.getLogger(__name__)

# NAL units of a plain stream: slices, SEI, parameter sets, delimiters and filler (ITU-T H.264, table 7-1).
_PLAIN = frozenset({1, IDR, 6, SPS, PPS, 9, 12})
_NUMBERS = range(1, 32)  # that x264 gives its parameter sets; 0 is what nearly all cameras take
COPYING = ("mp4", "mov", "matroska")  # FFmpeg's names of the containers whose headers hold several parameter sets
_REORDERING = ("bframes=0", "b-pyramid=none", "b-pyramid=normal")  # of x264, by its delay in frames
_EXACT = {"avoid_negative_ts": "disabled"}  # see `capabilities.muxer_options`
_TRIAL_SIDE = 3  # encoded frames on each side of the group that is tried


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What is copied of a source.

    Attributes:
        media: the source.
        sets: its parameter sets.
        groups: of the copied groups of pictures, by pts of the IDR picture: the timestamps in order of presentation.
        delay: by how many frames a packet may be decoded before it is shown.
        number: of the encoder's own parameter sets; the source does not use it.
    """

    media: MediaFile
    sets: ParameterSets
    groups: dict[int, tuple[int, ...]]
    delay: int
    number: int

    @property
    def encoder_opts(self) -> tuple[tuple[str, str], ...]:
        """Options for x264: its own parameter sets, and the source's reordering, since decoders do not expect more."""
        return (("x264-params", f"sps-id={self.number}:{_REORDERING[self.delay]}"),)

    @property
    def frames(self) -> int:
        """How many frames are copied."""
        return sum(map(len, self.groups.values()))

    def extradata(self, own: bytes) -> bytes:
        """The parameter sets of both, those of the higher profile and level first, which a header names.

        Args:
            own: extradata of the encoder.
        """
        both = sorted((ParameterSets.read(own), self.sets), key=lambda sets: sets.rank, reverse=True)
        return annex_b([unit for kind in (SPS, PPS) for sets in both for unit in sets.units if kind_of(unit) == kind])


def plan_copy(media: MediaFile, unchanged: Sequence[range]) -> CopyPlan | None:
    """Find what can be copied of a source; None where that is nothing.

    Args:
        media: the source, of which all frames were decoded without a fault.
        unchanged: numbers of the frames that did not change, in order of presentation.
    """
    info = media.video
    plain = info.codec == "h264" and info.pixel_format in ("yuv420p", "yuvj420p") and info.clock == "pts"
    if not (plain and unchanged) or info.interlaced or info.misflagged or info.crop != Crop():
        return None
    try:
        with open_input(media.path) as container:
            stream = main_video(container, media.path)
            sets = ParameterSets.read(stream.codec_context.extradata or b"")
            if is_joinable(container):
                raise ValueError("recordings may be joined in it")
            stamps, firsts = _stamps(read_packets(container, [stream]), sets)
        number = next((n for n in _NUMBERS if n not in sets.numbers), 0)
        groups = _closed(stamps, firsts, unchanged)
    except ValueError as reason:
        log.info("'%s': dry parts are encoded, not copied: %s.", media.path.name, reason)
        return None
    rank = {stamp: at for at, stamp in enumerate(sorted(stamps))}
    delay = max(at - rank[stamp] for at, stamp in enumerate(stamps))
    can = groups and number and delay < len(_REORDERING)
    return CopyPlan(media, sets, groups, delay, number) if can else None


def _stamps(packets: Iterable[Packet], sets: ParameterSets) -> tuple[list[int], list[int]]:
    """The timestamps of all packets in decoding order, and where in them an IDR picture is.

    Raises:
        ValueError: a packet is not plain, or repeats a parameter set with another content.
    """
    stamps: list[int] = []
    firsts: list[int] = []
    for packet in packets:
        units = sets.split(bytes(packet))
        kinds = {kind_of(unit) for unit in units}
        if packet.pts is None or packet.is_corrupt or packet.is_discard or not kinds <= _PLAIN:
            raise ValueError("a packet of another kind")
        if any(kind_of(unit) in (SPS, PPS) and unit not in sets.units for unit in units):
            raise ValueError("its parameter sets change")
        if IDR in kinds:
            firsts.append(len(stamps))
        stamps.append(packet.pts)
    if len(set(stamps)) < len(stamps) or firsts[:1] != [0]:
        raise ValueError("timestamps that are not clear, or a beginning without a keyframe")
    return stamps, firsts


def _closed(stamps: list[int], firsts: list[int], unchanged: Sequence[range]) -> dict[int, tuple[int, ...]]:
    """The groups of pictures whose frames did not change, and are all shown between two IDR pictures."""
    shown = sorted(stamps)
    groups = {}
    for begin, end in zip_longest(firsts, firsts[1:], fillvalue=len(stamps)):
        number = bisect_left(shown, stamps[begin])
        inside = range(number, number + end - begin)
        stretch = tuple(shown[inside.start : inside.stop])
        is_closed = tuple(sorted(stamps[begin:end])) == stretch
        if is_closed and any(inside.start in part and inside[-1] in part for part in unchanged):
            groups[stamps[begin]] = stretch
    return groups


class SourcePackets:
    """Reads groups of pictures from a source, in the order of the file.

    Args:
        plan: what is copied.
    """

    def __init__(self, plan: CopyPlan) -> None:
        self._plan = plan
        self._container = open_input(plan.media.path)
        self._packets = read_packets(self._container, [main_video(self._container, plan.media.path)])

    def group(self, first: int, shift: int) -> Iterator[Packet]:
        """The packets of a group, as a byte stream and without the parameter sets, which the header has.

        Args:
            first: pts of its IDR picture.
            shift: what to add to all timestamps.

        Raises:
            OutputError: the packets are not there any more.
        """
        count = len(self._plan.groups[first])
        packets = dropwhile(lambda packet: packet.pts != first, self._packets)
        for packet in islice(packets, count):
            count -= 1
            units = [unit for unit in self._plan.sets.split(bytes(packet)) if kind_of(unit) not in (SPS, PPS)]
            copy: Packet = av.Packet(annex_b(units))
            copy.pts = (packet.pts or 0) + shift
            copy.duration, copy.time_base, copy.is_keyframe = packet.duration, packet.time_base, packet.is_keyframe
            yield copy
        if count:
            raise OutputError(f"'{self._plan.media.path}' changed while it was read.", "Process it again.")

    def close(self) -> None:
        """Closes the file."""
        self._container.close()


class CopyingEncoder:
    """A `segments.PacketEncoder` that copies the packets of unchanged groups, and encodes all other frames.

    Args:
        plan: what is copied.
        source: the packets of the source, shared by the encoders of all segments.
        add_encoder: adds a video stream with an encoder to a container, the same for each encoded stretch.
        like: such a stream.
        muxer: FFmpeg's name of the container that the packets are for.
    """

    def __init__(
        self,
        plan: CopyPlan,
        source: SourcePackets,
        add_encoder: Callable[[OutputContainer], VideoStream],
        like: VideoStream,
        muxer: str,
    ) -> None:
        self._plan, self._source, self._add_encoder, self._muxer = plan, source, add_encoder, muxer
        self._time_base = like.codec_context.time_base
        self._delay = max(plan.delay, like.codec_context.reorder_depth)
        self._copied = {stamp for group in plan.groups.values() for stamp in group}
        self._scratch: OutputContainer | None = None  # holds the encoder of the current stretch
        self._encoder: FrameEncoder | None = None
        self._decode_times: deque[int] = deque()  # of the packets that are still to come

    def encode(self, frame: Frame, time_s: Fraction) -> Iterator[Packet]:
        """Encodes or copies; see `segments.PacketEncoder`."""
        pts = round(time_s / self._time_base)
        if frame.pts not in self._copied:
            self._show([pts], frame.duration)
            yield from self._timed(self._opened().encode(frame, time_s))
        elif frame.pts in self._plan.groups:
            yield from self._end_stretch()
            shift = pts - frame.pts
            self._show([stamp + shift for stamp in self._plan.groups[frame.pts]], frame.duration)
            yield from self._timed(self._source.group(frame.pts, shift))

    def finish(self) -> Iterator[Packet]:
        """The packets that are left; see `segments.PacketEncoder`."""
        yield from self._end_stretch()

    def close(self) -> None:
        """Discards the encoder of an unfinished stretch."""
        if self._scratch is not None:
            self._scratch.close()
        self._scratch = self._encoder = None

    def _opened(self) -> FrameEncoder:
        if self._encoder is None:
            # Never written to: encoders take some settings from the format of their container.
            self._scratch = av.open(BytesIO(), "w", format=self._muxer)
            self._encoder = FrameEncoder(self._add_encoder(self._scratch))
        return self._encoder

    def _end_stretch(self) -> Iterator[Packet]:
        if self._encoder is not None:
            yield from self._timed(self._encoder.finish())
            self.close()

    def _show(self, stamps: list[int], step: int) -> None:
        """Notes frames in order of presentation: the n-th packet is decoded when frame n - delay is shown."""
        if not self._decode_times and self._delay:
            self._decode_times += [stamps[0] - back * max(1, step) for back in range(self._delay, 0, -1)]
        self._decode_times += stamps

    def _timed(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        for packet in packets:
            packet.dts = self._decode_times.popleft()
            yield packet


def joins_cleanly(plan: CopyPlan, add_encoder: Callable[[OutputContainer], VideoStream], muxer: str) -> bool:
    """Whether a copied group decodes to its own pixels at its own times, as do encoded frames around it.

    Tried in memory, with and without encoded frames before the group: decoders adapt to what a file begins with.

    Args:
        plan: what is to be copied.
        add_encoder: see `CopyingEncoder`.
        muxer: FFmpeg's name of the container.
    """
    try:
        frames = _around(plan)
        return all(_is_joined(plan, frames[first:], add_encoder, muxer) for first in (0, _TRIAL_SIDE))
    except (av.error.FFmpegError, ValueError, OSError, VderainError) as error:
        log.debug("joining copied and encoded packets: %s", error)
        return False


def _is_joined(
    plan: CopyPlan, frames: list[Frame], add_encoder: Callable[[OutputContainer], VideoStream], muxer: str
) -> bool:  # fmt: skip
    """Whether frames, the first group among them, read back as they were written; see `joins_cleanly`."""
    memory, source = BytesIO(), SourcePackets(plan)
    with closing(source), av.open(memory, "w", format=muxer, container_options=_EXACT) as output:
        stream = add_encoder(output)
        stream.codec_context.extradata = plan.extradata(stream.codec_context.extradata or b"")
        encoder = CopyingEncoder(plan, source, add_encoder, stream, muxer)
        zero_s = frames[0].pts * frames[0].time_base
        encoded = chain.from_iterable(encoder.encode(frame, frame.pts * frame.time_base - zero_s) for frame in frames)
        for packet in chain(encoded, encoder.finish()):
            packet.stream = stream
            output.mux_one(packet)
    memory.seek(0)
    return _reads_back(memory, plan, frames)


def _around(plan: CopyPlan) -> list[Frame]:
    """Grey frames at the timestamps of the first group, and at some before and after it that are not copied."""
    info, stamps = plan.media.video, next(iter(plan.groups.values()))
    step = max(1, round(1 / ((info.average_rate or FALLBACK_RATE) * info.time_base)))
    side = range(1, _TRIAL_SIDE + 1)
    grey = (
        np.full((info.height_px, info.width_px), 128, np.uint8),
        *[np.full((-(-info.height_px // 2), -(-info.width_px // 2)), 128, np.uint8)] * 2,
    )
    last = max(map(max, plan.groups.values()))
    times = [*(stamps[0] - n * step for n in reversed(side)), *stamps, *(last + n * step for n in side)]
    return [Frame(grey, info.colour, pts, step, info.time_base) for pts in times]


def _reads_back(memory: BytesIO, plan: CopyPlan, frames: list[Frame]) -> bool:
    """Whether a file in memory decodes to frames at the times of these, the first group to the source's own."""
    first, stamps = next(iter(plan.groups.items()))
    with closing(SourcePackets(plan)) as source, av.open(memory, "r") as written:
        stream = written.streams.video[0]
        tick_s = max(stream.time_base or Fraction(0), plan.media.video.time_base)
        original = _decoded(source.group(first, 0), annex_b(list(plan.sets.units)))
        read = _decoded(written.demux(stream), stream.codec_context.extradata)
        for wanted, frame in zip_longest(frames, read):
            if wanted is None or frame is None or frame.is_corrupt or frame.pts is None:
                return False
            off_s = frame.pts * (stream.time_base or 0) - (wanted.pts - frames[0].pts) * wanted.time_base
            if abs(off_s) > tick_s / 2:
                return False
            if wanted.pts in stamps and not np.array_equal(next(original).to_ndarray(), frame.to_ndarray()):
                return False
    return True


def _decoded(packets: "Iterable[av.Packet[Any]]", extradata: bytes | None) -> Iterator[av.VideoFrame]:
    """Frames out of a decoder that was not told more than the extradata, as players have it behind the first frames."""
    decoder = VideoCodecContext.create("h264", "r")
    decoder.extradata = extradata
    return chain.from_iterable(map(decoder.decode, chain((packet for packet in packets if packet.size), [None])))
