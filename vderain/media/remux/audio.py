"""Re-encodes audio that a container cannot hold, without loss where the container has a lossless codec."""

from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import av.filter
from av.container import OutputContainer
from av.stream import Stream

if TYPE_CHECKING:
    from vderain.media.decode.media_file import Packet

_LOSSLESS = frozenset({"flac", "alac", "wavpack", "tta", "truehd", "mlp", "ape", "shorten", "tak"})
_PCM = {  # samples as they are decoded -> PCM that holds them all
    "u8": "pcm_s16le", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f32le",
}  # fmt: skip
_SMALL = ("aac", "libopus", "libmp3lame")
_BITS_A_CHANNEL = 128_000  # a second: AAC is transparent to listeners above that
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_TRIAL_SAMPLES = 4096  # more than any encoder's packet
_PAUSE_MAX_S = 600  # a longer one is a damaged timestamp; silence for days would fill the memory
_FILL_S = Fraction(1, 20)  # a longer pause between packets is filled with silence, so that nothing after it moves


def fallback_codec(muxer: str, stream: Stream) -> str | None:
    """The encoder that loses least and whose packets a container holds, or None.

    Lossless audio stays lossless if the container can hold it.

    Args:
        muxer: FFmpeg's name.
        stream: of an open input.
    """
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None or not stream.codec_context.sample_rate:
        return None
    return next((name for name in _candidates(stream) if _holds(muxer, name, stream)), None)


def is_lossless(encoder: str) -> bool:
    return encoder == "alac" or encoder.startswith("pcm_")


def name_channels(context: av.AudioCodecContext) -> None:
    """Sets the usual channel layout where only the number of channels is known: MP4 needs one to hold PCM."""
    channels = context.layout.nb_channels
    if context.layout.name == f"{channels} channels" and channels in _LAYOUTS:
        context.layout = _LAYOUTS[channels]


def _candidates(stream: av.AudioStream) -> list[str]:
    codec, sample = stream.codec_context.codec.canonical_name, stream.codec_context.format
    pcm = _PCM.get(sample.name.removesuffix("p")) if sample is not None else None
    exact = [pcm] if pcm else []
    if codec in _LOSSLESS:
        return ["alac", *exact, *_SMALL]
    return [*exact, *_SMALL] if codec.startswith("pcm_") else list(_SMALL)


def _holds(muxer: str, encoder: str, stream: av.AudioStream) -> bool:
    """Whether encoder and muxer work, found by encoding silence and reading it back."""
    memory = BytesIO()
    try:
        with av.open(memory, "w", format=muxer) as trial:
            recoded = _add(trial, encoder, stream)
            trial.mux(recoded.encode(_silence(recoded.codec_context)) + recoded.encode(None))
        memory.seek(0)
        with av.open(memory) as written:
            return [each.type for each in written.streams] == ["audio"]
    except (av.error.FFmpegError, ValueError, OSError, ArithmeticError):
        return False


def _silence(context: av.AudioCodecContext) -> av.AudioFrame:
    silence = av.AudioFrame("s16", context.layout.name, _TRIAL_SAMPLES)
    for plane in silence.planes:
        plane.update(bytes(plane.buffer_size))
    silence.sample_rate, silence.pts, silence.time_base = context.sample_rate, 0, Fraction(1, context.sample_rate)
    return silence


def _add(output: OutputContainer, encoder: str, source: av.AudioStream) -> av.AudioStream:
    context = source.codec_context
    rate = _nearest_rate(encoder, context.sample_rate)
    stream = output.add_stream(encoder, rate=rate)
    assert isinstance(stream, av.AudioStream)
    stream.codec_context.time_base = Fraction(1, rate)  # else the source's, which may be too coarse for samples
    channels = len(context.layout.channels)
    stream.codec_context.layout = _LAYOUTS.get(channels, context.layout.name)
    if encoder in _SMALL:
        stream.codec_context.bit_rate = _BITS_A_CHANNEL * channels
    return stream


def _nearest_rate(encoder: str, rate: int) -> int:
    """The encoder's lowest sampling rate that is high enough, or its highest."""
    offered = sorted(av.Codec(encoder, "w").audio_rates or (rate,))
    return int(next((each for each in offered if each >= rate), offered[-1]))


class Recoder:
    """Decodes the packets of one stream and encodes them for an output, with their timestamps.

    Args:
        output: the output container, not yet begun.
        source: the stream whose packets will come.
        encoder: what `fallback_codec` returned.

    Attributes:
        stream: of the output.
        skipped: packets left out because of their timestamps.
    """

    def __init__(self, output: OutputContainer, source: av.AudioStream, encoder: str) -> None:
        self.stream = _add(output, encoder, source)
        self._source = source
        self._graph: av.filter.Graph | None = None
        self._kind: tuple[int, str, str] | None = None  # of the audio that the graph takes
        self._first: tuple[int, str, str] | None = None
        self._last_s: Fraction | None = None  # time of the last packet
        self.skipped = 0

    def __call__(self, packet: "Packet | None") -> "Iterator[Packet]":
        """The packets that are complete after one more (None: all that are left), in the source's time."""
        if packet is not None and self._is_far(packet):
            self.skipped += 1
            return
        try:
            frames = self._source.codec_context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            frames = []  # silence fills the place
        for frame in frames:
            yield from self._encoded(frame)
        if packet is None and self._graph is not None:
            yield from self._flushed()
            yield from self.stream.encode(None)

    def _is_far(self, packet: "Packet") -> bool:
        if packet.pts is None:
            return False
        time_s = packet.pts * packet.time_base
        if self._last_s is not None and time_s - self._last_s > _PAUSE_MAX_S:
            return True
        self._last_s = time_s
        return False

    def _encoded(self, frame: av.AudioFrame) -> "Iterator[Packet]":
        frame.time_base = self._source.time_base
        kind = frame.sample_rate, frame.format.name, frame.layout.name
        if kind != self._kind:  # the first, or a broadcast that goes from two channels to six
            yield from self._flushed()
            self._first = self._first or kind
            self._graph, self._kind = self._filter(kind, self._first), kind
        assert self._graph is not None
        self._graph.push(frame)
        yield from self._drained(self._graph)

    def _flushed(self) -> "Iterator[Packet]":
        if self._graph is not None:
            self._graph.push(None)
            yield from self._drained(self._graph)

    def _filter(self, kind: tuple[int, str, str], wanted: tuple[int, str, str]) -> av.filter.Graph:
        """A filter graph that fills gaps with silence, and converts to one rate, format and layout."""
        rate, samples, layout = kind
        graph = av.filter.Graph()
        steps = [
            graph.add_abuffer(sample_rate=rate, format=samples, layout=layout, time_base=self._source.time_base),
            graph.add("aresample", f"async=1:min_hard_comp={float(_FILL_S)}"),
            graph.add("aformat", f"sample_rates={wanted[0]}:sample_fmts={wanted[1]}:channel_layouts={wanted[2]}"),
            graph.add("abuffersink"),
        ]
        for one, next_one in pairwise(steps):
            one.link_to(next_one)
        graph.configure()
        return graph

    def _drained(self, graph: av.filter.Graph) -> "Iterator[Packet]":
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            yield from self.stream.encode(frame)
