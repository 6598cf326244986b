"""Owns the output file: Frames enter, a finished file with the same pts and all other streams leaves, or nothing."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.container import OutputContainer

from vderain.errors import OutputError
from vderain.video.boxes import hidden_boxes
from vderain.video.encoders import EncodeOptions, add_encoder
from vderain.video.frame import Frame
from vderain.video.info import StreamInfo
from vderain.video.planes import layout_of_planes, nearest_layout, picture_of, with_neutral_chroma
from vderain.video.reader import VideoReader
from vderain.video.source import open_input
from vderain.video.streams import StreamCopier, chapters_in, output_format
from vderain.video.target import check_target, lasting, muxer_options, output_error

__all__ = ["EncodeOptions", "VideoWriter"]

log = logging.getLogger(__name__)

_ROTATING = ("mp4", "mov", "matroska", "webm", "nut")  # containers with a place for a display matrix


class VideoWriter:
    """Writes frames to a video file and copies everything else from the source.

    The file grows under a hidden temporary name beside the target and takes the target's name only when it is complete
    and checked; after any failure nothing is left.

    Args:
        target: the file to write; its suffix chooses the container.
        like: the reader whose frames will come, entered already.
        options: codec and quality.
        size_px: stored width and height of the frames that will come, where they are not those of the source.

    Attributes:
        kept: names of the streams that were copied.
        dropped: names of what the container could not hold; complete after the context has closed.

    Raises:
        UsageError: on entering, for a suffix, codec or option that cannot be honoured.
        OutputError: on entering, writing or leaving, where the file cannot be written.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        like: VideoReader,
        options: EncodeOptions | None = None,
        size_px: tuple[int, int] | None = None,
    ) -> None:
        self.target = Path(target)
        self.kept: list[str] = []
        self.dropped: list[str] = []
        self._reader = like
        self._options = options or EncodeOptions()
        self._size_px = size_px
        self._partial = self.target.with_name(f".{self.target.name}.partial{self.target.suffix.lower()}")
        self._muxer = ""
        self._output: OutputContainer | None = None
        self._copier: StreamCopier | None = None
        self._stream: Any = None
        self._started = False
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._shift_s = Fraction(0)
        self._first_s: Fraction | None = None
        self._last_s = Fraction(0)
        self._count = 0

    def __enter__(self) -> "VideoWriter":
        self._muxer = output_format(self.target)
        check_target(self.target, self._reader)
        try:
            with self._output_errors():
                self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            if isinstance(error, av.error.FFmpegError):
                raise output_error(self.target, error) from error
            return
        try:
            with self._output_errors():
                self._finish()
        except BaseException:
            self._discard()
            raise

    def write(self, frame: Frame) -> None:
        """Encodes one frame at its own pts.

        Args:
            frame: of the reader's size and layout, later than the one before.

        Raises:
            OutputError: the file cannot be written any further.
        """
        with self._output_errors():
            if not self._started:
                self._start(frame.pts * frame.time_base)
            pts = self._note_time(frame)
            self._mux(self._stream.encode(self._picture(frame, pts)))

    def _open(self) -> None:
        self._output = av.open(
            str(self._partial.absolute()), "w", format=self._muxer,
            container_options=muxer_options(self._muxer, self._reader), metadata_errors="surrogateescape",
        )  # fmt: skip
        info = self._info()
        self._copier = StreamCopier(self._reader.path, info.stream_index)
        self.kept, self.dropped = self._copier.kept, self._copier.dropped
        self.dropped += hidden_boxes(self._reader.path)
        for stream in self._copier.streams():
            if stream.index == info.stream_index:
                self._stream = add_encoder(self._output, self._options, info, self._time_base())
                self._dress(stream)
            else:
                self._copier.add(self._output, stream)
        self._output.metadata.update(lasting(self._copier.source.metadata))

    def _info(self) -> StreamInfo:
        """The source's stream in the size that will be written."""
        info = self._reader.info
        return replace(info, width_px=self._size_px[0], height_px=self._size_px[1]) if self._size_px else info

    def _dress(self, source: Any) -> None:
        """What belongs to the video stream besides its pictures: tags, flags, rotation."""
        info = self._reader.info
        self._stream.metadata.update(lasting(source.metadata))
        self._stream.disposition = source.disposition
        if info.display_matrix is None:
            return
        if self._muxer in _ROTATING:
            self._stream.set_display_matrix(info.display_matrix)
        elif info.rotation_deg:
            self.dropped.append(f"rotation by {info.rotation_deg} degrees")

    def _time_base(self) -> Fraction:
        """AVI counts frames; all others take the source's own clock."""
        info = self._reader.info
        return 1 / info.average_rate if self._muxer == "avi" and info.average_rate else info.time_base

    def _begin_at(self, first_s: Fraction) -> None:
        """No container shows pictures before its zero: MP4 hides them, Matroska forgets when they were."""
        self._shift_s = min(Fraction(0), first_s)

    def _start(self, first_s: Fraction) -> None:
        """Writes the header, now that the first frame has fixed where the cut begins."""
        assert self._output is not None and self._copier is not None
        self._begin_at(first_s)
        cut = self._reader.cut
        if self._shift_s:
            cut = replace(cut, shift_s=cut.shift_s + self._shift_s)
            log.info("'%s' begins before zero: all streams move by %.3f s.", self.target.name, -float(self._shift_s))
        self._output.set_chapters(chapters_in(self._copier.source, cut))
        self._output.start_encoding()
        self._copier.begin(cut)
        self._started = True

    def _note_time(self, frame: Frame) -> int:
        """Remembers when a frame is shown, and says it in the encoder's units."""
        time_s = frame.pts * frame.time_base - self._shift_s
        ticks = time_s / self._stream.codec_context.time_base
        if ticks.denominator != 1:
            raise OutputError(
                "AVI holds only one constant frame rate, and these frames come at uneven times.", "Write .mp4 or .mkv."
            )
        if self._first_s is None:
            self._first_s = time_s
        self._last_s = time_s
        self._count += 1
        self._durations[int(ticks)] = int(frame.duration * frame.time_base / self._stream.codec_context.time_base)
        return int(ticks)

    def _picture(self, frame: Frame, pts: int) -> av.VideoFrame:
        """The frame as the encoder wants it; the very same bytes where it takes the frame's own layout."""
        target = nearest_layout(self._stream.codec_context.pix_fmt)
        planes, colour = frame.planes, frame.colour
        if layout_of_planes(planes, colour).kind == "gray" and target.kind == "yuv":
            planes, colour = with_neutral_chroma(planes, colour, target)
        picture = picture_of(planes, colour)
        if colour.matrix == "rgb" and target.kind == "yuv":
            context = self._stream.codec_context
            picture = picture.reformat(
                format=context.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
            )
        picture.pts = pts
        picture.time_base = self._stream.codec_context.time_base
        picture.duration = self._durations[pts]
        return picture

    def _mux(self, packets: list[Any]) -> None:
        assert self._output is not None and self._copier is not None
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration) or packet.duration
            self._copier.copy_until(self._output, packet.dts * packet.time_base)
            self._output.mux_one(packet)

    def _finish(self) -> None:
        """Flushes, closes, checks and renames."""
        assert self._output is not None and self._copier is not None
        if not self._count:
            raise OutputError(f"No frame was written to '{self.target}'.", "Check the input.")
        self._mux(self._flush())
        self._copier.copy_until(self._output, None)
        self._output.close()
        self._verify(self._copier)
        self._copier.close()
        self._partial.replace(self.target)
        if self.dropped:
            log.warning("'%s' cannot hold: %s.", self.target.name, ", ".join(self.dropped))

    def _flush(self) -> list[Any]:
        """What is still inside the encoder."""
        packets: list[Any] = self._stream.encode(None)
        if self._count <= 2 and self._stream.codec_context.name == "libx265":
            for packet in packets:  # x265 reads its dts from unwritten memory where it saw too few frames to reorder
                packet.dts = packet.pts
        return packets

    def _verify(self, copier: StreamCopier) -> None:
        """Reads the packets back, without decoding: as many pictures as were written, at the same instants."""
        stamps: list[Fraction] = []
        count = 0
        with open_input(self._partial) as container:
            stream = next(s for s in container.streams.video if s.index == self._stream.index)
            for packet in container.demux(stream):
                stamp = packet.dts if self._muxer == "avi" else packet.pts  # AVI has no pts: FFmpeg makes some up
                if packet.size and not packet.is_discard and stamp is not None:
                    count += 1
                    time_s = stamp * packet.time_base
                    stamps = [min([*stamps, time_s]), max([*stamps, time_s])]
            tick_s = stream.time_base or Fraction(0)
            self._compare_pixel_shape(stream)
            copier.check(container)
        expected = [self._first_s or Fraction(0), self._last_s]
        exact = all(abs(a - b) <= tick_s / 2 for a, b in zip(stamps, expected, strict=False))
        if count != self._count or not exact:
            raise OutputError(
                f"The finished file does not read back as written ({count} of {self._count} frames).",
                "Write another container such as .mkv, and report this.",
            )

    def _compare_pixel_shape(self, stream: Any) -> None:
        """Says so where the pixels' shape got lost: PyAV gives Matroska's muxer no way to know it."""
        wanted = self._reader.info.sample_aspect_ratio
        if wanted not in (None, 1) and stream.sample_aspect_ratio != wanted:
            self.dropped.append(f"pixel aspect ratio {wanted}")

    def _discard(self) -> None:
        """Closes everything and removes the temporary file; no error of its own hides the first one."""
        # Unlinked before it is closed: else the muxer would rewrite gigabytes just to finish a file nobody wants.
        for step in (self._unlink, self._close, self._unlink):
            with suppress(Exception):
                step()

    def _unlink(self) -> None:
        self._partial.unlink(missing_ok=True)

    def _close(self) -> None:
        try:
            if self._output is not None:
                self._output.close()
        finally:
            if self._copier is not None:
                self._copier.close()

    @contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise output_error(self.target, error) from error
