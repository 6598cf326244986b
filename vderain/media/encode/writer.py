"""Writes restored frames to a video file with their own pts, and copies everything else from the source."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av
from av.container import OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from vderain.errors import OutputError
from vderain.media.decode.media_file import TIMECODE, Chapter, Packet, SourceRate, VideoInfo, codec_name
from vderain.media.decode.probe import probe_stream
from vderain.media.encode import EncodeOptions
from vderain.media.encode.codec_choice import choose_codec
from vderain.media.encode.codecs import family_of
from vderain.media.encode.encoder import FrameEncoder, add_encoder
from vderain.media.encode.packet_copy import COPYING, CopyingEncoder, CopyPlan, SourcePackets, joins_cleanly, plan_copy
from vderain.media.encode.segments import PacketEncoder, SegmentEncoder, SegmentStore
from vderain.media.encode.verify import WrittenVideo, check_target, lost_in_frames, verify_output
from vderain.media.frame import Frame, SinkReport, listing
from vderain.media.mp4.boxes import rename_entries
from vderain.media.mp4.vendor_boxes import HOLDERS, VendorBox, carry_over, within
from vderain.media.pixel_format import has_alpha, is_resampled, nearest_layout
from vderain.media.remux import copy_tags, portable_tags
from vderain.media.remux.capabilities import muxer_options, output_format
from vderain.media.remux.copier import StreamCopier, chapters_in
from vderain.runtime.files import Draft, output_error

if TYPE_CHECKING:
    from vderain.media.decode.reader import VideoReader

__all__ = ["EncodeOptions", "VideoWriter"]

log = logging.getLogger(__name__)


class VideoWriter:
    """Writes frames to a video file and copies everything else from the source.

    The file grows under a hidden temporary name beside the target and takes the target's name only when it is complete
    and verified; after any failure nothing is left.

    Args:
        target: the file to write, or its draft; the suffix chooses the container. A file of that name is replaced,
            unless the draft forbids it.
        like: the reader of the source, entered already.
        options: codec and quality.
        size_px: stored width and height of the frames that will be written, where they differ from the source's.
        store: keeps the encoded segments of the video until it is complete, so that it can be resumed; entered
            already. Frames that it has must not be written again.
        unchanged: numbers of frames that will be written as they were read, without damage; where the packets of the
            source can be, they are copied. Only where all of the source is written.

    Attributes:
        kept: names of the streams and metadata that were copied.
        changed: descriptions of what is in the file in another form.
        dropped: names of what the container cannot hold; all three are complete after the context is left.

    Raises:
        UsageError: on entering, for a suffix, codec or option that cannot be honoured.
        OutputError: on entering, writing or leaving, where the file cannot be written.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Draft,
        like: "VideoReader",
        options: EncodeOptions | None = None,
        size_px: tuple[int, int] | None = None,
        store: SegmentStore | None = None,
        unchanged: Sequence[range] = (),
    ) -> None:
        self._draft = target if isinstance(target, Draft) else Draft(Path(target), like=like.path)
        self.target = self._draft.target
        self.kept: list[str] = []
        self.changed: list[str] = []
        self.dropped: list[str] = []
        self._reader = like
        self._options = options or EncodeOptions()
        self._size_px = size_px
        self._store = store
        self._unchanged = unchanged
        self._copy: CopyPlan | None = None
        self._copy_source: SourcePackets | None = None
        self._partial = self._draft.path
        self._muxer = ""
        self._output: OutputContainer | None = None
        self._copier: StreamCopier | None = None
        self._hidden: list[VendorBox] = []
        self._stream: Any = None
        self._encoder: FrameEncoder | SegmentEncoder | CopyingEncoder | None = None
        self._info = like.info  # of the frames as they will be written
        self._started = False
        self._chapters: list[Chapter] = []
        self._shift_s = Fraction(0)
        self._first_s = Fraction(0)
        self._last_s = store.last_s if store else Fraction(0)
        self._count = store.frames if store else 0

    @property
    def report(self) -> SinkReport:
        """What became of everything beside the frames; complete after the context is left."""
        return SinkReport(kept=tuple(self.kept), changed=tuple(self.changed), dropped=tuple(self.dropped))

    def __enter__(self) -> Self:
        self._muxer = output_format(self.target)
        check_target(self.target, self._reader.media, self._reader.share, self._options)
        try:
            self._draft.create()
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
            time_s = frame.pts * frame.time_base
            if not self._started:
                self._start(time_s)
            self._last_s = time_s - self._shift_s
            self._count += 1
            assert self._encoder is not None
            self._mux(self._encoder.encode(frame, self._last_s))

    def _open(self) -> None:
        media, cuts_front = self._reader.media, self._reader.cuts_front
        self._copier = StreamCopier(media, cuts_front)
        options = muxer_options(self._muxer, media, cuts_front, self._copier.recoded_audio(self._muxer))
        self._output = av.open(
            str(self._partial.absolute()), "w", format=self._muxer,
            container_options=options, metadata_errors="surrogateescape",
        )  # fmt: skip
        self.kept, self.changed, self.dropped = self._copier.kept, self._copier.changed, self._copier.dropped
        info = self._reader.info
        if self._size_px:
            info = replace(info, width_px=self._size_px[0], height_px=self._size_px[1])
        self._info = info
        for part in media.vendor_boxes:
            if part.movable and self._muxer in HOLDERS:
                self._hidden.append(part)
            else:
                self.dropped.append(part.name)
        for stream in self._copier.streams():
            if stream.index == info.stream_index:
                self._add_video(info)
                self._copy_stream_tags(stream)
            else:
                self._copier.add(self._output, stream)
        self._output.metadata.update(portable_tags(self._copier.source.metadata))
        if cuts_front:  # the timecode is that of the first frame of the whole
            self._output.metadata.pop("timecode", None)
            self._stream.metadata.pop("timecode", None)

    def _add_video(self, info: VideoInfo) -> None:
        """Adds the video stream and its encoder."""
        assert self._output is not None
        self._copy = self._plan_copy()
        self._stream = self._add_encoder(self._output)
        if self._copy is not None:
            self._copy_source = SourcePackets(self._copy)
            own = self._stream.codec_context.extradata or b""
            self._stream.codec_context.extradata = self._copy.extradata(own)
        if self._store is None:
            self._encoder = self._copying_encoder() if self._copy else FrameEncoder(self._stream)
        else:
            time_base = self._stream.codec_context.time_base
            self._encoder = SegmentEncoder(self._store, self._segment_encoder, self._muxer, time_base)
        wanted, chosen = (nearest_layout(n).name for n in (info.pixel_format, self._stream.codec_context.pix_fmt))
        if is_resampled(info.pixel_format):
            wanted = info.pixel_format
        if wanted != chosen:
            self.changed.append(f"{wanted} frames written as {chosen}")
        if has_alpha(info.pixel_format):
            self.dropped.append("transparency of the frames")

    def _add_encoder(self, output: OutputContainer) -> VideoStream:
        options = self._options
        if self._copy is not None:
            options = replace(options, encoder_opts=(*options.encoder_opts, *self._copy.encoder_opts))
        return add_encoder(output, self._codec, options, self._info, rate=self._source_rate)

    def _segment_encoder(self, output: OutputContainer) -> PacketEncoder:
        return self._copying_encoder() if self._copy else FrameEncoder(self._add_encoder(output))

    def _plan_copy(self) -> CopyPlan | None:
        """What of the source is copied: nothing, unless a trial shows that it can be."""
        if not self._unchanged or self._muxer not in COPYING or family_of(self._codec).encoder != "libx264":
            return None
        plan = self._copy = plan_copy(self._reader.media, self._unchanged)  # numbers the encoder's parameter sets
        if plan is not None and not joins_cleanly(plan, self._add_encoder, self._muxer):
            log.info("'%s': dry parts are encoded, because copied ones do not fit.", self._reader.path.name)
            return None
        if plan is not None:
            log.info("'%s': %d frames of dry parts are copied.", self._reader.path.name, plan.frames)
        return plan

    def _copying_encoder(self) -> CopyingEncoder:
        assert self._copy is not None and self._copy_source is not None
        return CopyingEncoder(self._copy, self._copy_source, self._add_encoder, self._stream, self._muxer)

    def _copy_stream_tags(self, source: Stream) -> None:
        """Copies what belongs to the video stream besides its frames: tags, disposition, rotation."""
        info = self._reader.info
        copy_tags(self._stream, source, copied=False)
        if (timecode := self._timecode()) is not None:
            self._stream.metadata.setdefault("timecode", timecode)
        if info.display_matrix is not None:
            self._stream.set_display_matrix(info.display_matrix)

    @cached_property
    def _codec(self) -> str:
        return choose_codec(self._options, self._muxer, self._info)

    @cached_property
    def _source_rate(self) -> SourceRate | None:
        """The source's bit rate, scaled to the size of the frames that will be written."""
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

    def _start(self, first_s: Fraction) -> None:
        """Writes the header, now that the first frame has fixed where the cut begins.

        No container shows frames before time 0: MP4 hides them, Matroska loses their timestamps.
        """
        assert self._output is not None and self._copier is not None
        if self._store is not None:  # which may have frames before this one
            first_s = self._store.set_origin(first_s)
        self._shift_s = min(Fraction(0), first_s)
        self._first_s = first_s - self._shift_s
        cut = self._reader.cut
        if self._shift_s:
            cut = replace(cut, shift_s=cut.shift_s + self._shift_s)
            log.info("'%s' begins before zero: all streams move by %.3f s.", self.target.name, -float(self._shift_s))
        self._chapters = chapters_in(self._reader.media, cut)
        self._output.set_chapters(self._chapters)
        self._output.start_encoding()
        self._copier.begin(self._output, cut)
        self._started = True

    def _mux(self, packets: Iterable[Packet]) -> None:
        """Writes packets of the video, each after the packets of other streams that come before it."""
        assert self._output is not None and self._copier is not None
        for packet in packets:
            assert packet.dts is not None
            self._copier.copy_until(self._output, packet.dts * packet.time_base)
            packet.stream = self._stream
            self._output.mux_one(packet)

    def _finish(self) -> None:
        """Flushes, closes, verifies and publishes the file."""
        assert self._output is not None and self._copier is not None and self._encoder is not None
        if not self._count:
            raise OutputError(f"No frame was written to '{self.target}'.", "Check the input.")
        if not self._started and self._store is not None and self._store.origin_s is not None:
            self._start(self._store.origin_s)  # all frames were in the store
        self._mux(self._encoder.finish())
        self._copier.copy_until(self._output, None)
        self._output.close()
        if self._copier.kinds:
            rename_entries(self._partial, self._copier.kinds)
        if self._hidden:
            self._carry_over()
        self.dropped += verify_output(self._partial, self._written(), self._copier)
        written = probe_stream(self._partial, self._stream.index)
        self.dropped += lost_in_frames(self._reader.info, written, self._reader.dropped)
        self._copier.close()
        if self._copy_source is not None:
            self._copy_source.close()
        self._draft.publish()
        if self.changed:
            log.warning("'%s' holds in another form: %s.", self.target.name, listing(self.changed))
        if self._copier.empty:
            log.warning("'%s' has empty streams: %s.", self._reader.path.name, listing(self._copier.empty))
        if self.dropped:
            log.warning("'%s' cannot hold: %s.", self.target.name, listing(self.dropped))

    def _written(self) -> WrittenVideo:
        return WrittenVideo(
            stream_index=self._stream.index,
            frames=self._count,
            first_s=self._first_s,
            last_s=self._last_s,
            sample_aspect_ratio=self._info.sample_aspect_ratio,
            chapters=self._chapters,
        )

    def _carry_over(self) -> None:
        """Copies the vendor boxes of the source, which FFmpeg does not know, into the closed file."""
        cut, zero_s = self._reader.cut, float(self._reader.media.start_s)
        begin_s = float(cut.begin_s) - zero_s if cut.begin_s is not None else None
        end_s = float(cut.end_s) - zero_s if cut.end_s is not None else None
        duration_s = self._reader.media.duration_s
        parts = [within(part, duration_s, begin_s, end_s) for part in self._hidden]
        lost = set(carry_over(self._reader.path, parts, self._partial))
        self.kept += [part.name for part in parts if part not in lost]
        self.dropped += [part.name for part in parts if part in lost]

    def _discard(self) -> None:
        """Closes everything and removes the temporary file; errors on the way do not hide the first one."""
        # Unlinked before it is closed: else the muxer would rewrite gigabytes to finish a file that is discarded.
        for step in (self._draft.discard, self._close, self._draft.discard):
            with suppress(Exception):
                step()

    def _close(self) -> None:
        with ExitStack() as stack:
            for part in (self._copier, self._copy_source, self._output, self._encoder):
                if part is not None and not isinstance(part, FrameEncoder):
                    stack.callback(part.close)

    @contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise output_error(self.target, error) from error
