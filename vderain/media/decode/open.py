"""Opens media files, picks the main video stream and reads packets and the first frame; failures are InputErrors."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from vderain.errors import InputError
from vderain.media.decode.media_file import Packet, StreamInfo

log = logging.getLogger(__name__)

# FFmpeg's own messages never reach the terminal: what matters is counted as damage or raised as an error.
logging.getLogger("libav").setLevel(logging.CRITICAL + 1)

_BOXED_VIDEO = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # how an MP4 or MOV file can begin

_READ_ERRORS_MAX = 100  # in a row; beyond the end of a truncated MP4 every remaining sample is one
_TIMESTAMP_PACKETS = 64  # how many video packets are read for a first timestamp
_PROBE_PACKETS = 600  # how many video packets are read for a first frame: 10 s at 60 fps
_OTHER_PACKETS = 600  # how many packets are read after that for the first one of each other stream
_TEXT = frozenset({"tty", "bin", "xbin", "adf", "idf", "cdg"})  # FFmpeg reads plain text as video of these formats


@contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turns whatever PyAV raises while reading ``path`` into an InputError."""
    try:
        yield
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _as_input_error(path, error) from error


def open_input(path: Path) -> InputContainer:
    """Opens a file for demuxing; only local files are touched, whatever a playlist inside it says.

    Raises:
        InputError: the file is missing, empty, a directory or a pipe, unreadable or not a video file.
    """
    with input_errors(path):
        _check_is_file(path)
        return _open(str(path.absolute()))


@contextmanager
def open_input_file(path: Path) -> Iterator[tuple[BinaryIO, InputContainer]]:
    """Opens a file once, for demuxing and for reading its bytes.

    The demuxer reads through the same file object and counts on its position: put it back after each read.

    Raises:
        InputError: the file is missing, empty, a directory or a pipe, unreadable or not a video file.
    """
    with input_errors(path):
        _check_is_file(path)
        file = path.absolute().open("rb")
    with file:
        with input_errors(path):
            container = _open(file)
        with container:
            yield file, container


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"'{path}' does not exist.", "Check the path and the spelling.")
    if path.is_dir():
        raise InputError(f"'{path}' is a directory.", "Give a video file.")
    if not path.is_file():  # it is opened several times, and the second open of a pipe would block
        raise InputError(f"'{path}' is a pipe or a device.", "Save the video to a file first.")
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is empty.", "Copy it again from where it was recorded.")


def _open(file: str | BinaryIO) -> InputContainer:
    # surrogateescape carries bytes that are not UTF-8 unchanged from the source's metadata to the output's
    container = av.open(file, "r", container_options={"protocol_whitelist": "file"}, metadata_errors="surrogateescape")
    if container.format.name in _TEXT:
        container.close()
        raise ValueError("text")
    return container


def demux(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """The packets of some streams, closed by an empty one of each, which flushes its decoder.

    Args:
        container: an open file.
        streams: some of its streams.
    """
    try:
        yield from container.demux(*streams)
    except IndexError as error:
        # At the end PyAV also looks for streams that appeared on the way, for which it has no object.
        log.debug("'%s' has more streams than its header names: %s", Path(container.name).name, error)


def read_packets(container: InputContainer, streams: Sequence[Stream], level: int = logging.DEBUG) -> Iterator[Packet]:
    """The packets of some streams that are not empty; continues behind packets that cannot be read.

    Args:
        container: an open file.
        streams: some of its streams.
        level: at which the first failure is logged.
    """
    errors, said = 0, False
    while streams and errors <= _READ_ERRORS_MAX:
        try:
            for packet in demux(container, streams):
                if packet.size:
                    errors = 0
                    yield packet
            return
        except (av.error.FFmpegError, OSError) as error:
            errors += 1
            name = Path(container.name).name
            log.log(logging.DEBUG if said else level, "'%s' has packets that cannot be read: %s", name, error)
            said = True


def _as_input_error(path: Path, error: Exception) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"'{path}' may not be read.", "Change its permissions or copy it elsewhere.")
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as unreadable:
        return InputError(f"'{path}' cannot be read ({unreadable.strerror}).", "Check the disk or the connection.")
    if head[4:8] in _BOXED_VIDEO:
        return InputError(
            f"'{path}' has no usable index (moov): the recording or the copy stopped too early.",
            "Copy it again, or repair it with a tool such as untrunc.",
        )
    return InputError(
        f"'{path}' is not a video file that can be read.", "Give a video file such as .mp4, .mov or .mkv."
    )


def main_video(container: InputContainer, path: Path) -> "av.VideoStream":
    """The video stream that is restored: the one a player would show.

    Raises:
        InputError: there is none, it has no decoder, or its frames have no size.
    """
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise InputError(f"'{path}' has no video in it.", "Give a video file.")
    best = container.streams.best("video")
    stream = best if best in moving and isinstance(best, av.VideoStream) else moving[0]
    if stream.codec_context is None:
        raise InputError(f"The video codec of '{path}' is unknown to FFmpeg.", "Convert the file to H.264 first.")
    if stream.codec_context.width <= 0 or stream.codec_context.height <= 0:
        raise InputError(f"The frames of '{path}' have no size.", "Copy or record the file again.")
    return stream


@dataclass(slots=True)
class FileHead:
    """The beginning of a file as far as it was read.

    Attributes:
        frame: the first frame that decodes, damaged or not.
        first_pts: the earliest pts, or None where packets have none.
        unstamped: packets without a pts before the first with one; Matroska loses timestamps before zero.
        first_packets: the first packet of each stream that was asked for, by index of the stream.
    """

    frame: av.VideoFrame
    first_pts: int | None
    unstamped: int
    first_packets: dict[int, Packet] = field(default_factory=dict)


def read_head(container: InputContainer, stream: av.VideoStream, path: Path, others: Sequence[Stream] = ()) -> FileHead:
    """Reads packets until the first frame of a video stream is decoded and a packet of each other stream is there.

    Args:
        container: an open file, of which no packet has been read.
        stream: the video stream.
        path: the file, for error messages.
        others: further streams of which the first packet is wanted.

    Raises:
        InputError: no frame can be decoded.
    """
    frame: av.VideoFrame | None = None
    unstamped = tried = 0
    stamps: list[int] = []
    first_packets: dict[int, Packet] = {}
    packets = packets_until_error(container, [stream, *others])
    for packet in packets:
        if packet.size:
            first_packets.setdefault(packet.stream_index, packet)
        if packet.stream_index != stream.index:
            continue
        if packet.pts is not None:
            stamps.append(packet.pts)
        elif not stamps:
            unstamped += 1
        if frame is None:
            frame = _first_frame(packet)
        enough = stamps or tried >= _TIMESTAMP_PACKETS
        if (frame is not None and enough) or tried >= _PROBE_PACKETS:
            break
        tried += 1
    if frame is None:
        raise InputError(f"No frame of '{path}' can be decoded.", "Copy or record the file again.")
    if frame.pts is not None and stamps:
        stamps.append(frame.pts)
    missing = {each.index for each in others} - first_packets.keys()
    for packet in islice(packets, _OTHER_PACKETS if missing else 0):
        if packet.size:
            first_packets.setdefault(packet.stream_index, packet)
            missing.discard(packet.stream_index)
        if not missing:
            break
    return FileHead(frame, min(stamps, default=None), unstamped if stamps else 0, first_packets)


def packets_until_error(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """The packets of some streams, the closing empty ones included, up to the first that cannot be read."""
    try:
        yield from demux(container, streams)
    except (av.error.FFmpegError, OSError) as error:
        log.debug("reading the head of a file: %s", error)


def _first_frame(packet: Packet) -> av.VideoFrame | None:
    try:
        frame = next(iter(packet.decode()), None)
    except (av.error.FFmpegError, ValueError):
        return None
    return frame if isinstance(frame, av.VideoFrame) else None


def first_packet(stream: Stream, info: StreamInfo) -> Packet | None:
    """A copy of the first packet of audio or video; None for other streams and for empty ones.

    Args:
        stream: of an open input.
        info: what the probe found of it.
    """
    if stream.type not in ("audio", "video"):
        return None
    packet = info.first_packet
    if packet is None and isinstance(stream.container, InputContainer):
        packet = _first_packets(stream.container).get(stream.index)
    return _copy_packet(packet) if packet is not None else None


@lru_cache(maxsize=2)  # one pass for all streams, of which a file may have hundreds without a packet
def _first_packets(container: InputContainer) -> dict[int, Packet]:
    """The first packets of audio and video by index, also those further on than the file was probed."""
    found: dict[int, Packet] = {}
    with open_input(Path(container.name)) as again:
        streams = [stream for stream in again.streams if stream.type in ("audio", "video")]
        for packet in read_packets(again, streams):
            found.setdefault(packet.stream_index, packet)
            if len(found) == len(streams):
                break
    return found


def is_empty(stream: Stream, info: StreamInfo) -> bool:
    """Whether a stream of audio or video has no packets.

    Args:
        stream: of an open input.
        info: what the probe found of it.
    """
    return stream.type in ("audio", "video") and first_packet(stream, info) is None


def _copy_packet(packet: Packet) -> Packet:
    """A copy of a packet that belongs to no stream; muxers change the timestamps of the packets they are given."""
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for side_data in packet.iter_sidedata():
        copy.set_sidedata(side_data)
    return copy
