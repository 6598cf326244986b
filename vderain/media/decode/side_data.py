"""Owns what pictures carry beside their samples: a decoded picture enters, names of what no encoder writes anew leave.

It lies in the stream between the pictures, and is gone when they are encoded anew. PyAV has no way to hand it on.
"""

import gc
from typing import Any

from vderain.media.decode.media_file import StreamInfo

_NAMES = {  # FFmpeg's kinds of side data -> in words
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
_OF_ENCODERS = (  # in which x264 and x265 say how they were set: of the old stream
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"), bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),
)  # fmt: skip

FIRST, EVERY = 8, 16  # pictures that are looked at: so many, then one of so many
LATER = 12  # pictures, behind which those are no longer in use
THOROUGH = 64  # collections of young objects, to one of all


def lost_side_data(picture: Any) -> frozenset[str]:
    """What a picture carries that its encoded copy will not have, in words."""
    found = (side for side in picture.side_data if side.type.name in _NAMES)
    return frozenset(
        f"{_NAMES[side.type.name]} in the pictures"
        for side in found
        if side.type.name != "SEI_UNREGISTERED" or not bytes(side).startswith(_OF_ENCODERS)
    )


def is_kept(part: str, stream: StreamInfo, muxer: str) -> bool:
    """Whether a copy has something of `unkept` after all, because the container says it, too.

    Args:
        part: in words.
        stream: of the source.
        muxer: FFmpeg's name of the copy's container.
    """
    return part.startswith(_NAMES["STEREO3D"]) and "stereo_mode" in stream.tags and muxer in ("matroska", "webm")


class LostSideData:
    """`unkept` of the pictures of a stream, looked at from time to time.

    PyAV's view of side data and its picture refer to each other. Python's collector parts such rings two hundred
    pictures later, which are 600 MB at 1080p; so it is asked to as soon as the pictures looked at have been used.

    Attributes:
        found: in words, so far.
    """

    def __init__(self) -> None:
        self.found: frozenset[str] = frozenset()
        self._pictures = 0

    def look(self, picture: Any) -> None:
        """At the next picture."""
        if self._pictures < FIRST or self._pictures % EVERY == 0:
            self.found |= lost_side_data(picture)
        elif self._pictures % EVERY == LATER:
            gc.collect(2 if self._pictures // EVERY % THOROUGH == THOROUGH - 1 else 0)
        self._pictures += 1
