"""Reads GPS positions from camera files and writes them as a GPX track.

Three kinds are read: the records of dashcams with a Novatek chip (such as Viofo, 70mai and Vantrue), GoPro's ``gpmd``
streams, and the ``camm`` streams of 360-degree cameras. Their layouts are described by ExifTool's documentation,
GoPro's GPMF-parser and Google's Camera Motion Metadata specification. Encrypted records are not read.
"""

import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

from av.stream import Discard
from gpxpy.gpx import GPX, GPXTrack, GPXTrackPoint, GPXTrackSegment

from vderain.media.decode.media_file import MediaFile
from vderain.media.decode.open import input_errors, open_input, read_packets
from vderain.media.mp4.boxes import read_span
from vderain.media.mp4.vendor_boxes import GPS_MAGIC, within
from vderain.runtime.files import Draft, output_error

KNOT_MPS = 1852 / 3600
_GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC)
_GPS9_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
CREATOR = "vderain"
_HEAD_BYTES = 1024  # of a GPX file, which name its creator
_LEAP_S = 18  # by which GPS time is ahead of UTC, since 2017
_BLOCK_BYTES = 4096  # of a record that are read; padding follows
_RMC = re.compile(
    rb"\$..RMC,(\d{2})(\d{2})(\d{2}(?:\.\d*)?),A,(\d+\.\d+),([NS]),(\d+\.\d+),([EW]),([\d.]*),([\d.]*),(\d{2})(\d{2})(\d{2})"
)
_GARMIN = "http://www.garmin.com/xmlschemas/TrackPointExtension/v2"


@dataclass(frozen=True, slots=True)
class Fix:
    """A GPS position.

    Attributes:
        time: in UTC, as the camera has it, or None.
        latitude_deg, longitude_deg: north and east are positive.
        elevation_m: above sea level or the ellipsoid, depending on the camera, or None.
        speed_mps: speed over ground, or None.
        course_deg: direction of movement, clockwise from north, or None.
    """

    time: datetime | None
    latitude_deg: float
    longitude_deg: float
    elevation_m: float | None = None
    speed_mps: float | None = None
    course_deg: float | None = None


def read_fixes(media: MediaFile, begin_s: float | None = None, end_s: float | None = None) -> list[Fix]:
    """Reads the GPS fixes of a video file, in its order.

    Args:
        media: the file.
        begin_s: seconds from the beginning of the file at which to start, or None.
        end_s: seconds from the beginning of the file at which to stop, or None.

    Raises:
        InputError: the file cannot be read.
    """
    return list(_of_records(media, begin_s, end_s)) or list(_of_streams(media, begin_s, end_s))


def _of_records(media: MediaFile, begin_s: float | None, end_s: float | None) -> Iterator[Fix]:
    records = [part for part in media.vendor_boxes if part.is_gps]
    if not records:
        return
    with input_errors(media.path), media.path.open("rb") as file:
        for part in records:
            for begin, size in within(part, media.duration_s, begin_s, end_s).spans:
                fix = fix_of_record(read_span(file, begin, min(size, _BLOCK_BYTES)))
                if fix is not None:
                    yield fix


def _of_streams(media: MediaFile, begin_s: float | None, end_s: float | None) -> Iterator[Fix]:
    if not any(stream.type == "data" for stream in media.streams):
        return
    with open_input(media.path) as container:
        zero_s = float(media.start_s)
        streams = [stream for stream in container.streams if stream.type == "data"]
        for stream in container.streams:
            if stream not in streams:
                stream.discard = Discard.all  # the demuxer then skips its bytes where the format lets it
        for packet in read_packets(container, streams):
            if packet.pts is None:
                continue
            time_s = float(packet.pts * packet.time_base) - zero_s
            if (begin_s is None or time_s >= begin_s) and (end_s is None or time_s < end_s):
                with suppress(struct.error, ValueError, OverflowError):  # a damaged packet
                    yield from fixes_of_packet(bytes(packet))


def fixes_of_packet(packet: bytes) -> Iterator[Fix]:
    """The fixes in a packet of a data stream, whose first bytes identify its format.

    Raises:
        struct.error, ValueError, OverflowError: the packet is damaged.
    """
    if packet[:4] == b"DEVC":
        yield from _gpmf(packet)
    elif (packet[:4], len(packet)) in ((b"\0\0\5\0", 28), (b"\0\0\6\0", 60)):
        yield from _camm(packet)


def fix_of_record(block: bytes) -> Fix | None:
    """The fix in a record of a dashcam; None if there is none, or the layout is unknown.

    Args:
        block: the record, including the header of its ``free`` box.
    """
    at = block.find(GPS_MAGIC)
    if at < 0:
        return None
    block = (b"\0" * 4 + block[at:]).ljust(256, b"\0")
    for layout in (_novatek, _vantrue, _rmc):
        with suppress(struct.error, ValueError, OverflowError):
            fix = layout(block)
            if fix is not None:
                return fix
    return None


def _novatek(block: bytes) -> Fix | None:
    """Novatek: six integers of time, the status and hemispheres, four floats; older ones start 32 bytes later."""
    for at in (16, 48):
        status = block[at + 24 : at + 28]
        if re.fullmatch(rb"A[NS][EW]\0", status):
            hour, minute, second, year, month, day = struct.unpack_from("<6I", block, at)
            latitude, longitude, knots, course = struct.unpack_from("<4f", block, at + 28)
            time = datetime(year if year >= 2000 else 2000 + year, month, day, hour, minute, second, tzinfo=UTC)
            return _fix(time, latitude, status[1:2], longitude, status[2:3], knots, course)
    return None


def _vantrue(block: bytes) -> Fix | None:
    """Vantrue: doubles instead of floats, and the date at the end."""
    if block[28:29] != b"A" or block[40:41] not in b"NS" or block[56:57] not in b"EW":
        return None
    hour, minute, second = struct.unpack_from("<3I", block, 16)
    year, month, day = struct.unpack_from("<3I", block, 80)
    latitude, longitude, knots, course = (struct.unpack_from("<d", block, at)[0] for at in (32, 48, 64, 72))
    time = datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC)
    return _fix(time, abs(latitude), block[40:41], abs(longitude), block[56:57], knots, course)


def _rmc(block: bytes) -> Fix | None:
    """An RMC sentence of NMEA 0183 anywhere in the record."""
    match = _RMC.search(block)
    if match is None:
        return None
    hour, minute, day, month, year = (int(match[group]) for group in (1, 2, 10, 11, 12))
    time = datetime(2000 + year, month, day, hour, minute, tzinfo=UTC) + timedelta(seconds=float(match[3]))
    knots, course = (float(match[group]) if match[group] else None for group in (8, 9))
    return _fix(time, float(match[4]), match[5], float(match[6]), match[7], knots, course)


def _fix(
    time: datetime, latitude: float, north: bytes, longitude: float, east: bytes,
    knots: float | None, course: float | None,
) -> Fix | None:  # fmt: skip
    """A fix from degrees and minutes as ``ddmm.mmmm``; None if that is not a position on Earth."""
    latitude_deg, longitude_deg = _degrees(latitude), _degrees(longitude)
    if not (0 <= latitude_deg <= 90 and 0 <= longitude_deg <= 180):
        return None
    signs = -1 if north == b"S" else 1, -1 if east == b"W" else 1
    speed = knots * KNOT_MPS if knots is not None and 0 <= knots < 1e4 else None
    course = course if course is not None and 0 <= course <= 360 else None
    return Fix(time, signs[0] * latitude_deg, signs[1] * longitude_deg, None, speed, course)


def _degrees(value: float) -> float:
    if not math.isfinite(value) or value % 100 >= 60.01:
        return math.nan
    return value // 100 + value % 100 / 60


def _gpmf(packet: bytes) -> Iterator[Fix]:
    """The fixes in a packet of GoPro's telemetry: nested entries of key, type, size, count and data (GPMF)."""
    time: datetime | None = None
    scale: list[int] = []
    locked = True
    for key, kind, size, data in _klv(packet):
        if kind == 0:
            yield from _gpmf(data)
        elif key == b"GPSU":
            time = datetime.strptime(data[:12].decode("ascii", "replace"), "%y%m%d%H%M%S").replace(tzinfo=UTC)
        elif key == b"GPSF":
            locked = int.from_bytes(data[:4], "big") >= 2
        elif key == b"SCAL":
            scale = [int.from_bytes(data[i : i + size], "big", signed=True) for i in range(0, len(data), size)]
        elif key == b"GPS5" and size == 20 and len(scale) == 5 and all(scale) and locked and data:
            values = struct.unpack_from(">5i", data)  # the first of about 20 a second: GPSU holds for it only
            latitude_deg, longitude_deg, elevation_m, speed_mps, _ = (v / s for v, s in zip(values, scale, strict=True))
            yield Fix(time, latitude_deg, longitude_deg, elevation_m, speed_mps)
        elif key == b"GPS9" and size == 32 and len(scale) == 9 and all(scale) and data:
            *numbers, fix = (v / s for v, s in zip(struct.unpack_from(">7i2H", data), scale, strict=True))
            latitude_deg, longitude_deg, elevation_m, speed_mps, _, days, seconds, _ = numbers
            if fix >= 2:
                time = _GPS9_EPOCH + timedelta(days=days, seconds=seconds)
                yield Fix(time, latitude_deg, longitude_deg, elevation_m, speed_mps)


def _klv(data: bytes) -> Iterator[tuple[bytes, int, int, bytes]]:
    """Key, type, size of an item and data of each entry, which are padded to four bytes."""
    at = 0
    while at + 8 <= len(data):
        key, kind, size, count = struct.unpack_from(">4sBBH", data, at)
        length = size * count
        yield key, kind, size, data[at + 8 : at + 8 + length]
        at += 8 + (length + 3) // 4 * 4


def _camm(packet: bytes) -> Iterator[Fix]:
    """The fix in a packet of a ``camm`` stream: the position alone (type 5), or with time and velocity (type 6)."""
    (kind,) = struct.unpack_from("<H", packet, 2)
    if kind == 5:
        yield Fix(None, *struct.unpack_from("<3d", packet, 4))
    elif kind == 6:
        gps_s, fix_type, latitude, longitude, elevation = struct.unpack_from("<diddf", packet, 4)
        east, north = struct.unpack_from("<2f", packet, 44)
        if fix_type >= 2:
            time = _GPS_EPOCH + timedelta(seconds=gps_s - _LEAP_S)
            course = math.degrees(math.atan2(east, north)) % 360
            yield Fix(time, latitude, longitude, elevation, math.hypot(east, north), course)


@contextmanager
def gpx_file(draft: Draft, fixes: list[Fix], name: str) -> Iterator[None]:
    """Writes a GPX file that gets its name only if the body of the ``with`` statement succeeds.

    Args:
        draft: of the file.
        fixes: the points of its track.
        name: name of the track.

    Raises:
        OutputError: it cannot be written.
    """
    with draft:
        draft.create()
        try:
            write_gpx(draft.path, fixes, name)
        except OSError as error:
            raise output_error(draft.target, error) from error
        yield
        draft.publish()


def is_gpx_of_ours(path: Path) -> bool:
    """Whether a file was written by `write_gpx`, judged by its first bytes."""
    with suppress(OSError), path.open("rb") as file:
        return CREATOR.encode() in file.read(_HEAD_BYTES)
    return False


def write_gpx(path: Path, fixes: list[Fix], name: str) -> None:
    """Writes a GPX 1.1 file with one track.

    Args:
        path: the file, which is replaced.
        fixes: its points.
        name: name of the track.

    Raises:
        OSError: it cannot be written.
    """
    segment = GPXTrackSegment([_track_point(fix) for fix in fixes])
    track = GPXTrack(name)
    track.segments.append(segment)
    gpx = GPX()
    gpx.creator = CREATOR
    gpx.nsmap["gpxtpx"] = _GARMIN
    gpx.tracks.append(track)
    path.write_text(
        gpx.to_xml("1.1"), encoding="utf-8", errors="xmlcharrefreplace"
    )  # a name may have other bytes than UTF-8


def _track_point(fix: Fix) -> GPXTrackPoint:
    """A point of a track; GPX 1.1 has no speed or course, so these go into Garmin's TrackPointExtension."""
    point = GPXTrackPoint(
        latitude=round(fix.latitude_deg, 7),
        longitude=round(fix.longitude_deg, 7),
        elevation=round(fix.elevation_m, 2) if fix.elevation_m is not None else None,
        time=fix.time,
    )
    values = {"speed": fix.speed_mps, "course": fix.course_deg}
    known = {tag: value for tag, value in values.items() if value is not None}
    if known:
        extension = ElementTree.Element(f"{{{_GARMIN}}}TrackPointExtension")
        for tag, value in known.items():
            ElementTree.SubElement(extension, f"{{{_GARMIN}}}{tag}").text = f"{value:.3f}"
        point.extensions.append(extension)
    return point
