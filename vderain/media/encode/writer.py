"""Owns the output file: Frames enter, a finished file with the same pts and all other streams leaves, or nothing."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.container import OutputContainer

from vderain.errors import OutputError
from vderain.media.decode.media_file import SourceRate, VideoInfo
from vderain.media.decode.open import TIMECODE, codec_name, open_input
from vderain.media.decode.probe import probe_video
from vderain.media.decode.reader import VideoReader
from vderain.media.encode.encoder import add_encoder
from vderain.media.encode.options import EncodeOptions
from vderain.media.encode.preflight import check_target, muxer_options, output_error
from vderain.media.encode.verify import lost_chapters, lost_colour, lost_of_file, lost_of_streams
from vderain.media.frame import Frame
from vderain.media.mp4.sample_entry import rename_entries
from vderain.media.mp4.vendor_boxes import HOLDERS, VendorBox, carry_over, within
from vderain.media.pixel_format import (
    has_alpha,
    is_resampled,
    layout_of_planes,
    nearest_layout,
    picture_of,
    with_neutral_chroma,
)
from vderain.media.remux.capabilities import output_format
from vderain.media.remux.copier import StreamCopier, chapters_in
from vderain.media.remux.metadata import copy_tags, portable_tags
from vderain.runtime.files import temporary_path

__all__ = ["EncodeOptions", "VideoWriter"]

log = logging.getLogger(__name__)


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
        kept: names of the streams, and of the parts beside them, that were copied.
        changed: what is in the file in another form, in words.
        dropped: names of what the container could not hold; both are complete after the context has closed.

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
        self.changed: list[str] = []
        self.dropped: list[str] = []
        self._reader = like
        self._options = options or EncodeOptions()
        self._size_px = size_px
        self._partial = temporary_path(self.target, f".partial{self.target.suffix.lower()}")
        self._muxer = ""
        self._output: OutputContainer | None = None
        self._copier: StreamCopier | None = None
        self._hidden: list[VendorBox] = []
        self._stream: Any = None
        self._encoder: Any = None
        self._info = like.info  # of the pictures as they will be written
        self._started = False
        self._chapters: list[Any] = []
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._shift_s = Fraction(0)
        self._first_s: Fraction | None = None
        self._last_s = Fraction(0)
        self._count = 0

    def __enter__(self) -> "VideoWriter":
        self._muxer = output_format(self.target)
        check_target(self.target, self._reader, self._options)
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
            self._mux(self._encoder.encode(self._picture(frame, pts)))

    def _open(self) -> None:
        self._copier = StreamCopier(self._reader.media, self._reader.cuts_front)
        options = muxer_options(self._muxer, self._reader, self._copier.recoded_audio(self._muxer))
        self._output = av.open(
            str(self._partial.absolute()), "w", format=self._muxer,
            container_options=options, metadata_errors="surrogateescape",
        )  # fmt: skip
        self.kept, self.changed, self.dropped = self._copier.kept, self._copier.changed, self._copier.dropped
        info = self._reader.info
        if self._size_px:
            info = replace(info, width_px=self._size_px[0], height_px=self._size_px[1])
        self._info = info
        parts = self._reader.media.vendor_boxes
        self._hidden = [part for part in parts if part.movable and self._muxer in HOLDERS]
        self.dropped += [part.name for part in parts if part not in self._hidden]
        for stream in self._copier.streams():
            if stream.index == info.stream_index:
                self._add_video(info)
                self._dress(stream)
            else:
                self._copier.add(self._output, stream)
        self._output.metadata.update(portable_tags(self._copier.source.metadata))
        if self._reader.cuts_front:  # the timecode is that of the first frame of the whole
            self._output.metadata.pop("timecode", None)
            self._stream.metadata.pop("timecode", None)

    def _add_video(self, info: VideoInfo) -> None:
        """Adds the video stream and its encoder."""
        assert self._output is not None
        self._stream = self._encoder = add_encoder(self._output, self._options, info, info.time_base, self._source_rate)
        wanted, chosen = (nearest_layout(n).name for n in (info.pixel_format, self._encoder.codec_context.pix_fmt))
        if is_resampled(info.pixel_format):
            wanted = info.pixel_format
        if wanted != chosen:
            self.changed.append(f"{wanted} pictures written as {chosen}")
        if has_alpha(info.pixel_format):
            self.dropped.append("transparency of the pictures")

    def _dress(self, source: Any) -> None:
        """What belongs to the video stream besides its pictures: tags, flags, rotation."""
        info = self._reader.info
        copy_tags(self._stream, source, copied=False)
        if (timecode := self._timecode()) is not None:
            self._stream.metadata.setdefault("timecode", timecode)
        if info.display_matrix is not None:
            self._stream.set_display_matrix(info.display_matrix)

    @cached_property
    def _source_rate(self) -> SourceRate | None:
        """What the source spends on as many pixels as will come."""
        info = self._reader.info
        rate = self._reader.media.bit_rate
        if rate is None or self._size_px is None:
            return rate
        share = self._size_px[0] * self._size_px[1] / (info.width_px * info.height_px)
        return SourceRate(rate.bits_s * share, rate.burst_bits * share if rate.burst_bits is not None else None)

    def _timecode(self) -> str | None:
        """The first timecode of the source's timecode track, which not every file repeats beside the video."""
        assert self._copier is not None
        tracks = [s for s in self._copier.streams() if codec_name(s) == TIMECODE]
        return next((str(s.metadata["timecode"]) for s in tracks if "timecode" in s.metadata), None)

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
        self._chapters = chapters_in(self._reader.media, cut)
        self._output.set_chapters(self._chapters)
        self._output.start_encoding()
        self._copier.begin(self._output, cut)
        self._started = True

    def _note_time(self, frame: Frame) -> int:
        """Remembers when a frame is shown, and says it in the encoder's units."""
        base = self._encoder.codec_context.time_base
        time_s = frame.pts * frame.time_base - self._shift_s
        if self._first_s is None:
            self._first_s = time_s
        ticks = round(Fraction(time_s / base))
        self._last_s = ticks * base
        self._count += 1
        self._durations[ticks] = int(frame.duration * frame.time_base / base)
        return ticks

    def _picture(self, frame: Frame, pts: int) -> av.VideoFrame:
        """The frame as the encoder wants it; the very same bytes where it takes the frame's own layout."""
        target = nearest_layout(self._encoder.codec_context.pix_fmt)
        planes, colour = frame.planes, frame.colour
        if layout_of_planes(planes, colour).kind == "gray" and target.kind == "yuv":
            planes, colour = with_neutral_chroma(planes, colour, target)
        picture = picture_of(planes, colour)
        if colour.matrix == "rgb" and target.kind == "yuv":
            context = self._encoder.codec_context
            picture = picture.reformat(
                format=context.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
            )
        picture.pts = pts
        picture.time_base = self._encoder.codec_context.time_base
        picture.duration = self._durations[pts]
        return picture

    def _mux(self, packets: list[Any]) -> None:
        assert self._output is not None and self._copier is not None
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration) or packet.duration
            self._copier.copy_until(self._output, packet.dts * packet.time_base)
            packet.stream = self._stream
            self._output.mux_one(packet)

    def _finish(self) -> None:
        """Flushes, closes, checks and renames."""
        assert self._output is not None and self._copier is not None
        if not self._count:
            raise OutputError(f"No frame was written to '{self.target}'.", "Check the input.")
        self._mux(self._flush())
        self._copier.copy_until(self._output, None)
        self._output.close()
        if self._copier.kinds:
            rename_entries(self._partial, self._copier.kinds)
        if self._hidden:
            self._carry_over()
        self._verify(self._copier)
        self._copier.close()
        self._partial.replace(self.target)
        if self.changed:
            log.warning("'%s' holds in another form: %s.", self.target.name, ", ".join(self.changed))
        if self.dropped:
            log.warning("'%s' cannot hold: %s.", self.target.name, ", ".join(self.dropped))

    def _carry_over(self) -> None:
        """Puts into the closed file what FFmpeg does not see of the source."""
        cut, zero_s = self._reader.cut, float(self._reader.media.start_s)
        begin_s = float(cut.begin_s) - zero_s if cut.begin_s is not None else None
        end_s = float(cut.end_s) - zero_s if cut.end_s is not None else None
        duration_s = self._reader.media.duration_s
        parts = [within(part, duration_s, begin_s, end_s) for part in self._hidden]
        lost = carry_over(self._reader.path, parts, self._partial)
        self.kept += [part.name for part in parts if part not in lost]
        self.dropped += [part.name for part in lost]

    def _flush(self) -> list[Any]:
        """What is still inside the encoder."""
        packets: list[Any] = self._encoder.encode(None)
        if self._count <= 2 and self._encoder.codec_context.name == "libx265":
            for packet in packets:  # x265 reads its dts from unwritten memory where it saw too few frames to reorder
                packet.dts = packet.pts
        return packets

    def _verify(self, copier: StreamCopier) -> None:
        """Reads the packets back, without decoding: as many pictures as were written, at the same instants."""
        stamps: list[Fraction] = []
        count = 0
        with open_input(self._partial) as container:
            stream = self._written(container)
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard and packet.pts is not None:
                    count += 1
                    time_s = packet.pts * packet.time_base
                    stamps = [min([*stamps, time_s]), max([*stamps, time_s])]
            tick_s = stream.time_base or Fraction(0)
            self._compare_pixel_shape(stream)
            copier.check(container)
            self._note_losses(container, stream, copier)
        self._note_pictures()
        expected = [self._first_s or Fraction(0), self._last_s]
        exact = all(abs(a - b) <= tick_s / 2 for a, b in zip(stamps, expected, strict=False))
        if count != self._count or not exact:
            raise OutputError(
                f"The finished file does not read back as written ({count} of {self._count} frames).",
                "Write another container such as .mkv, and report this.",
            )

    def _written(self, container: Any) -> Any:
        """The video stream as it reads back."""
        streams = (stream for stream in container.streams.video if stream.index == self._stream.index)
        if (stream := next(streams, None)) is None:
            raise OutputError(
                "The finished file does not read back as written (no video).", "Write .mkv, and report this."
            )
        return stream

    def _note_pictures(self) -> None:
        """Names what decoding the first picture shows to be lost."""
        with open_input(self._partial) as container:
            written = probe_video(container, self._written(container), self._partial)
        self.dropped += [part for part in self._reader.dropped if part not in written.lost_side_data]
        self.dropped += lost_colour(self._reader.info, written)

    def _note_losses(self, written: Any, stream: Any, copier: StreamCopier) -> None:
        """Names what the muxer left out without a word."""
        source = copier.source.streams[self._reader.info.stream_index]
        lost = lost_of_file(copier.source, written)
        if "timecode" in stream.metadata:  # MP4 makes a track of a file's
            lost = [words for words in lost if words != "tag timecode"]
        self.dropped += lost
        self.dropped += lost_of_streams(
            [(source, stream), *copier.pairs(written, self._stream.index)], written.metadata
        )
        self.dropped += lost_chapters(self._chapters, written.chapters())

    def _compare_pixel_shape(self, stream: Any) -> None:
        """Says so where the pixels' shape got lost: PyAV gives Matroska's muxer no way to know it."""
        wanted = self._info.sample_aspect_ratio
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
