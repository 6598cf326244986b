"""Copies every stream but the main video, packet by packet, interleaved with the video that is being written."""

import logging
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from math import ceil

import av
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Disposition, Stream

from vderain.media.decode.media_file import (
    TIMECODE,
    Chapter,
    MediaFile,
    Packet,
    StreamInfo,
    TimeRange,
    codec_name,
    stream_name,
)
from vderain.media.decode.open import first_packet, input_errors, is_empty, open_input, read_packets
from vderain.media.decode.timestamps import continuous, is_joinable, with_decode_times, without_hidden
from vderain.media.remux import audio, copy_tags
from vderain.media.remux.capabilities import (
    BOXED,
    COVER_NAMES,
    add_copy,
    becomes_attachment,
    can_hold,
    fallback_codec,
    file_of_data,
    readable_name,
)
from vderain.runtime.files import DISK_ERRORS

_MARGIN_S = 1  # how much earlier reading begins than what is wanted: formats without an index seek by guessing
_SUBTITLE_S = 30  # the same where there are subtitles: none stays longer on the screen
_EMPTY_TEXT = b"\0\0"  # fills the time between two subtitles in MP4; the muxer writes its own


class StreamCopier:
    """Copies every stream but the main video from a source into an output, packet for packet, as time goes on.

    Args:
        media: the file to copy from; it is opened a second time, so that nothing has to be kept in memory.
        cuts_front: whether the beginning is cut off; a timecode track, which holds for the first frame, is dropped.

    Attributes:
        kept: names of the streams that are copied.
        changed: names of the streams that are there in another form.
        dropped: names of what the container could not hold.
        empty: names of streams without packets that are not in the output.
        kinds: by number of the track, what its samples have to be called once the file is closed.
    """

    def __init__(self, media: MediaFile, cuts_front: bool = False) -> None:
        self._media = media
        self._source = media.path
        self._cuts_front = cuts_front
        self._container = open_input(media.path)
        self._main_index = media.video.stream_index
        self._held: dict[tuple[str, int], bool] = {}  # answers of `can_hold` so far
        self._targets: dict[int, Stream] = {}
        self._recoders: dict[int, audio.Recoder] = {}
        self._refused: dict[int, int] = {}
        self._steps: dict[int, tuple[int, int]] = {}  # of audio: the last packet's dts and duration
        self._copied: set[int] = set()
        self._last_s: dict[int, Fraction] = {}  # when the last packet of each stream is decoded
        self._cut = TimeRange()
        self._packets: Iterator[Packet] = iter(())
        self._next: Packet | None = None
        self.kept: list[str] = []
        self.changed: list[str] = []
        self.kinds: dict[int, str] = {}
        self.dropped: list[str] = []
        self.empty: list[str] = []

    def streams(self) -> list[Stream]:
        """All streams of the source in order, the main video included."""
        return list(self._container.streams)

    @property
    def source(self) -> InputContainer:
        """The source as the copier has it open."""
        return self._container

    @property
    def main_stream(self) -> Stream:
        """The main video stream of the source."""
        return self._container.streams[self._main_index]

    def add(self, output: OutputContainer, stream: Stream) -> None:
        """Prepares the copy of one stream, or notes that it cannot be copied."""
        info = self._media.streams[stream.index]
        if info.is_chapter_track:
            return
        name, muxer = stream_name(stream), output.format.name
        if codec_name(stream) == TIMECODE:
            self._keep_timecode(muxer, name)
            return
        if info.is_unnamed_data and muxer in BOXED:
            self._add_nameless(output, stream)
            self.kept.append(name)
            return
        if becomes_attachment(muxer, stream):
            self._attach_cover(output, stream, info)
            return
        if not self._can_hold(muxer, info):
            encoder = audio.fallback_codec(muxer, stream)
            if encoder is not None and isinstance(stream, av.AudioStream):
                recoder = self._recoders[stream.index] = audio.Recoder(output, stream, encoder)
                copy_tags(recoder.stream, stream, copied=False)
                self._targets[stream.index] = recoder.stream
                self.changed.append(f"{name} written as {fallback_codec(muxer, stream)}")
            else:
                (self.empty if is_empty(stream, info) else self.dropped).append(name)
            return
        self._targets[stream.index] = add_copy(output, stream)
        self.kept.append(name)

    def recoded_audio(self, muxer: str) -> list[StreamInfo]:
        """The audio streams that a container cannot hold as they are.

        Args:
            muxer: FFmpeg's name.
        """
        return [info for info in self._media.streams if info.type == "audio" and not self._can_hold(muxer, info)]

    def _can_hold(self, muxer: str, info: StreamInfo) -> bool:
        key = muxer, info.index
        if key not in self._held:
            stream = self._container.streams[info.index]
            self._held[key] = can_hold(muxer, stream, first_packet(stream, info))
        return self._held[key]

    def _add_nameless(self, output: OutputContainer, stream: Stream) -> None:
        with av.open(file_of_data()) as template:  # PyAV's own way to add data asks MOV's muxer, which denies it
            copy = output.add_stream_from_template(template.streams[0])
        copy.time_base = stream.time_base
        copy_tags(copy, stream, copied=True)
        self._targets[stream.index] = copy
        self.kinds[copy.index + 1] = codec_name(stream)

    def _keep_timecode(self, muxer: str, name: str) -> None:
        """The muxer writes the track from the tag of the video; other containers keep the tag only."""
        if self._cuts_front:
            self.dropped.append(name)
        elif muxer in BOXED:
            self.kept.append(name)
        else:
            self.changed.append(f"{name} written as a tag")

    def _attach_cover(self, output: OutputContainer, stream: Stream, info: StreamInfo) -> None:
        cover = first_packet(stream, info)
        if cover is None:
            self.empty.append(stream_name(stream))
            return
        filename, mimetype = COVER_NAMES[codec_name(stream)]
        filename = stream.metadata.get("filename", filename)
        output.add_attachment(filename, stream.metadata.get("mimetype", mimetype), bytes(cover))
        self.kept.append(stream_name(stream))

    def check(self, written: InputContainer) -> None:
        """Moves to ``dropped`` the streams that do not read back with their type and codec."""
        readable = Counter((stream.type, readable_name(codec_name(stream))) for stream in written.streams)
        for index in self._targets.keys() - self._recoders.keys():
            stream = self._container.streams[index]
            key = (stream.type, readable_name(codec_name(stream)))
            readable[key] -= 1
            if readable[key] < 0:
                self.kept.remove(stream_name(stream))
                (self.dropped if index in self._copied else self.empty).append(stream_name(stream))

    def pairs(self, written: InputContainer, main_index: int) -> Iterator[tuple[Stream, Stream]]:
        """The streams that are in the output, each with what it reads back as.

        Args:
            written: the output, opened for reading.
            main_index: the main video stream of the output.
        """
        tracks = {target.index: self._container.streams[index] for index, target in self._targets.items()}
        tracks = {index: source for index, source in tracks.items() if source.type != "attachment"}
        order = sorted([*tracks, main_index])  # Matroska puts attachments behind all tracks
        for copy, index in zip(written.streams, order, strict=False):
            if index != main_index and copy.type == tracks[index].type:
                yield tracks[index], copy

    def begin(self, output: OutputContainer, cut: TimeRange) -> None:
        """Starts reading; nothing outside ``cut`` is copied."""
        self._cut = cut
        if cut.begin_s is not None and self._targets and not is_joinable(self._container):
            kinds = {self._container.streams[index].type for index in self._targets}
            early_s = cut.begin_s - (_SUBTITLE_S if "subtitle" in kinds else _MARGIN_S)
            if early_s > 0:
                with input_errors(self._source):
                    self._container.seek(int(early_s * av.time_base))
        self._packets = self._all_packets(self._container, output)
        self._advance()

    def _all_packets(self, container: InputContainer, output: OutputContainer) -> Iterator[Packet]:
        """The packets of the streams that are copied, as the output's container needs them."""
        wanted = [stream for stream in container.streams if stream.index in self._targets]
        joinable = bool(wanted) and is_joinable(container)  # its clock may begin again, and the video says when
        for stream in container.streams:
            if stream.index not in self._targets and not (joinable and stream.index == self._main_index):
                stream.discard = Discard.all  # the demuxer then skips its bytes where the format lets it
        if joinable:
            wanted.append(self.main_stream)
        packets = read_packets(container, wanted, logging.WARNING)
        if joinable:
            packets = continuous(packets, self._main_index)
        packets = with_decode_times(packets)
        return packets if output.format.name in BOXED else without_hidden(packets)

    def copy_until(self, output: OutputContainer, time_s: Fraction | None) -> None:
        """Writes the packets before a time of the output (None: all that are left)."""
        while self._next is not None and (time_s is None or self._time_s(self._next) - self._cut.shift_s <= time_s):
            self._write(output, self._next)
            self._advance()
        if time_s is None:
            for recoder in self._recoders.values():
                self._mux(output, recoder, None)

    def close(self) -> None:
        """Closes the source and adds what the muxer refused on the way to ``dropped``."""
        self._refused |= {index: recoder.skipped for index, recoder in self._recoders.items() if recoder.skipped}
        for index, count in self._refused.items():
            self.dropped.append(f"{count} packet{'s' * (count > 1)} of {stream_name(self._container.streams[index])}")
        self._refused.clear()
        self._packets = iter(())
        self._next = None
        self._container.close()

    def _time_s(self, packet: Packet) -> Fraction:
        stamp = packet.dts if packet.dts is not None else packet.pts
        return Fraction(stamp) * packet.time_base if stamp is not None else Fraction(0)

    def _advance(self) -> None:
        """Finds the next packet that belongs into the output."""
        self._next = next((packet for packet in self._packets if self._wanted(packet)), None)

    def _wanted(self, packet: Packet) -> bool:
        if packet.stream.disposition & Disposition.attached_pic:
            return True
        if codec_name(packet.stream) == "mov_text" and bytes(packet) == _EMPTY_TEXT:
            return False
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.stream.type == "subtitle":
            stamp = self._cut_subtitle(packet, stamp)
        return stamp is not None and self._cut.holds(Fraction(stamp) * packet.time_base)

    def _cut_subtitle(self, packet: Packet, stamp: int) -> int:
        """Shortens a subtitle that is visible when the cut begins to begin there; returns its start."""
        begin = stamp if self._cut.begin_s is None else ceil(self._cut.begin_s / packet.time_base)
        duration = packet.duration or 0
        if stamp < begin < stamp + duration:
            packet.duration = duration - (begin - stamp)
            packet.pts = packet.dts = stamp = begin
        return stamp

    def _write(self, output: OutputContainer, packet: Packet) -> None:
        index = packet.stream_index
        if index in self._recoders:
            self._mux(output, self._recoders[index], packet)
            return
        self._copied.add(index)
        self._shift(packet)
        self._lengthen(packet)
        packet.stream = target = self._targets[index]
        self._put_behind(packet, target)
        try:
            output.mux_one(packet)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) or getattr(error, "errno", None) in DISK_ERRORS:
                raise
            self._refused[index] = self._refused.get(index, 0) + 1

    def _lengthen(self, packet: Packet) -> None:
        """Gives an audio packet without a duration that of the packet before.

        MP4 drops what begins where its track ends, as a last packet without a duration does.
        """
        if packet.stream.type != "audio" or packet.dts is None:
            return
        last, length = self._steps.get(packet.stream_index, (packet.dts, 0))
        length = packet.duration or packet.dts - last or length
        packet.duration = packet.duration or length
        self._steps[packet.stream_index] = packet.dts, length

    def _put_behind(self, packet: Packet, target: Stream) -> None:
        """Keeps dts increasing: where recordings are joined, the audio of one may last into the next."""
        last_s = self._last_s.get(target.index)
        if packet.dts is None:
            return
        if last_s is not None and packet.dts * packet.time_base <= last_s:
            packet.dts = ceil((last_s + (target.time_base or 0)) / packet.time_base)
            packet.pts = max(packet.pts, packet.dts) if packet.pts is not None else None
        self._last_s[target.index] = packet.dts * packet.time_base

    def _mux(self, output: OutputContainer, recoder: audio.Recoder, packet: Packet | None) -> None:
        """Writes the re-encoded packets of a packet (None: all that are left)."""
        for recoded in recoder(packet):
            recoded.stream = recoder.stream
            self._shift(recoded)
            output.mux_one(recoded)

    def _shift(self, packet: Packet) -> None:
        if packet.stream.disposition & Disposition.attached_pic:
            packet.pts = packet.dts = 0
            return
        ticks = round(self._cut.shift_s / packet.time_base)
        packet.pts = packet.pts - ticks if packet.pts is not None else None
        packet.dts = packet.dts - ticks if packet.dts is not None else packet.pts


def chapters_in(media: MediaFile, cut: TimeRange) -> list[Chapter]:
    """The chapters inside the cut, in the output's time."""
    chapters: list[Chapter] = []
    for chapter in media.chapters:
        base = chapter["time_base"] or Fraction(1, av.time_base)
        begin = max(chapter["start"] * base, cut.begin_s) if cut.begin_s is not None else chapter["start"] * base
        end = min(chapter["end"] * base, cut.end_s) if cut.end_s is not None else chapter["end"] * base
        if begin < end:
            shifted = (round((begin - cut.shift_s) / base), round((end - cut.shift_s) / base))
            chapters.append({**chapter, "start": shifted[0], "end": shifted[1]})
    return chapters
