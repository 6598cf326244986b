"""Encodes frames with one opened encoder, each at its own pts and with its own duration."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Protocol

import av
from av.video.stream import VideoStream

from vderain.media.decode.media_file import Packet
from vderain.media.frame import Frame
from vderain.media.pixel_format import layout_of_planes, nearest_layout, to_av_frame, with_neutral_chroma


class PacketEncoder(Protocol):
    """Turns frames into packets, at once or when all frames are there."""

    def encode(self, frame: Frame, time_s: Fraction) -> Iterable[Packet]:
        """Encodes one frame.

        Args:
            frame: of the size and layout that the encoder was opened for.
            time_s: when the frame is shown, on the output's clock.

        Returns:
            The packets that are complete.
        """

    def finish(self) -> Iterable[Packet]:
        """The packets that are left, after the last frame."""


class FrameEncoder:
    """A `PacketEncoder` with one encoder for all frames.

    Args:
        stream: with its encoder opened.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._time_base = stream.codec_context.time_base  # of the encoder; a muxer may change the stream's
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._count = 0

    def encode(self, frame: Frame, time_s: Fraction) -> list[Packet]:
        """Encodes one frame; see `PacketEncoder`."""
        pts = round(time_s / self._time_base)
        self._durations[pts] = int(frame.duration * frame.time_base / self._time_base)
        self._count += 1
        return self._with_durations(self._stream.encode(self._encoder_frame(frame, pts)))

    def finish(self) -> list[Packet]:
        """The packets that are still inside the encoder."""
        packets = self._stream.encode(None)
        if self._count <= 2 and self._stream.codec_context.name == "libx265":
            for packet in packets:  # with too few frames to reorder, x265 leaves their dts uninitialised
                packet.dts = packet.pts
        return self._with_durations(packets)

    def _encoder_frame(self, frame: Frame, pts: int) -> av.VideoFrame:
        """The frame in the encoder's pixel format; the very same bytes if that is the frame's own layout."""
        context = self._stream.codec_context
        assert context.pix_fmt is not None
        target = nearest_layout(context.pix_fmt)
        planes, colour = frame.planes, frame.colour
        if layout_of_planes(planes, colour).kind == "gray" and target.kind == "yuv":
            planes, colour = with_neutral_chroma(planes, colour, target)
        encoded = to_av_frame(planes, colour)
        if colour.matrix == "rgb" and target.kind == "yuv":
            encoded = encoded.reformat(
                format=context.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
            )
        encoded.pts = pts
        encoded.time_base = self._time_base
        encoded.duration = self._durations[pts]
        return encoded

    def _with_durations(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration or 0) or packet.duration
        return packets
