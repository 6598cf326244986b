"""Finds metadata inside decoded frames, such as captions or Dolby Vision data, that an encoder does not write.

Such side data lies in the bit stream between the frames, and PyAV has no way to hand it to an encoder. It is found
here so that its loss can be reported.
"""

import gc
import struct
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av

from vderain.media.decode.media_file import HdrMetadata, StreamInfo

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData

_NAMES = {  # FFmpeg's side data types -> descriptions
    "A53_CC": "closed captions",
    "AFD": "active format description",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing environment",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "ICC_PROFILE": "colour profile",
    "S12M_TIMECODE": "timecodes",
    "SEI_UNREGISTERED": "user data",
    "SPHERICAL": "projection of a spherical video",
    "STEREO3D": "stereoscopic layout",
}
_ENCODER_SETTINGS = (  # UUIDs of the user data in which x264 and x265 note the settings of the old stream
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"),
    bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),
)

_FIRST, _EVERY = 8, 16  # frames that are examined: the first 8, then every 16th
_COLLECT_AFTER = 12  # frames after an examined one until it is no longer in use
_FULL_COLLECTION_EVERY = 64  # collections; the others examine young objects only


def frame_side_data(frame: av.VideoFrame) -> "Iterable[SideData]":
    """The side data of a decoded frame, which PyAV's stubs declare as a dictionary."""
    return cast("Iterable[SideData]", frame.side_data)


def hdr_metadata_of(frame: av.VideoFrame) -> HdrMetadata | None:
    """Reads it from a decoded frame (FFmpeg's AVMasteringDisplayMetadata and AVContentLightMetadata)."""
    sides = {side.type.name: bytes(side) for side in frame_side_data(frame)}
    mastering, content = sides.get("MASTERING_DISPLAY_METADATA"), sides.get("CONTENT_LIGHT_LEVEL")
    primaries = luminance = None
    if mastering is not None:
        numbers = struct.unpack("=22i", mastering[:88])
        ratios = [Fraction(n, d or 1) for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
        primaries = tuple(ratios[:8]) if numbers[20] else None
        luminance = (ratios[8], ratios[9]) if numbers[21] else None
    levels = struct.unpack("=2I", content[:8]) if content is not None else None
    if primaries is None and luminance is None and levels is None:
        return None
    return HdrMetadata(primaries, luminance, levels and (levels[0], levels[1]))


def lost_side_data(frame: av.VideoFrame) -> frozenset[str]:
    """Descriptions of a decoded frame's side data that its encoded copy will not have."""
    found = (side for side in frame_side_data(frame) if side.type.name in _NAMES)
    return frozenset(
        f"{_NAMES[side.type.name]} in the frames"
        for side in found
        if side.type.name != "SEI_UNREGISTERED" or not bytes(side).startswith(_ENCODER_SETTINGS)
    )


def is_kept(part: str, stream: StreamInfo, muxer: str) -> bool:
    """Whether a copy keeps a part of `lost_side_data` after all, because the container states it as well.

    Args:
        part: description of the side data.
        stream: the main video stream of the source.
        muxer: FFmpeg's name of the copy's container.
    """
    return part.startswith(_NAMES["STEREO3D"]) and "stereo_mode" in stream.tags and muxer in ("matroska", "webm")


class LostSideData:
    """Collects the `lost_side_data` of a stream by examining some of its frames.

    PyAV's view of side data and its frame refer to each other. Python's garbage collector frees such cycles two hundred
    frames later, which are 600 MB at 1080p; so it is run explicitly once the examined frames have been used.

    Attributes:
        found: descriptions so far.
    """

    def __init__(self) -> None:
        self.found: frozenset[str] = frozenset()
        self._frames = 0

    def look(self, frame: av.VideoFrame) -> None:
        """Takes the next frame, and examines it if it is its turn."""
        if self._frames < _FIRST or self._frames % _EVERY == 0:
            self.found |= lost_side_data(frame)
        elif self._frames % _EVERY == _COLLECT_AFTER:
            is_full = self._frames // _EVERY % _FULL_COLLECTION_EVERY == _FULL_COLLECTION_EVERY - 1
            gc.collect(2 if is_full else 0)
        self._frames += 1
