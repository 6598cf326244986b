"""Splits H.264 packets into NAL units, and reads the numbers by which slices refer to their parameter sets."""

from dataclasses import dataclass

IDR, SPS, PPS = 5, 7, 8  # nal_unit_type (ITU-T H.264, table 7-1)
_START = b"\0\0\1"
_PROFILES = (66, 77, 100)  # Baseline, Main and High: 8 bits, 4:2:0, no layers
_AVCC_HEAD = 6  # bytes before the first parameter set of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15)


def kind_of(unit: bytes) -> int:
    """The nal_unit_type of a NAL unit."""
    return unit[0] & 31


def annex_b(units: list[bytes]) -> bytes:
    """NAL units as a byte stream, each behind a start code."""
    return b"".join(b"\0" + _START + unit for unit in units)


@dataclass(frozen=True)
class ParameterSets:
    """The parameter sets of a stream, from its extradata.

    Attributes:
        units: NAL units, sequence parameter sets first.
        length_bytes: size of the length before each NAL unit of a packet; 0 where there are start codes instead.
    """

    units: tuple[bytes, ...]
    length_bytes: int = 0

    @staticmethod
    def read(extradata: bytes) -> "ParameterSets":
        """Read extradata of either form.

        Args:
            extradata: of a stream.

        Raises:
            ValueError: it is malformed, or the profile is not one of 8-bit 4:2:0.
        """
        if extradata[:1] == b"\1":
            if len(extradata) < _AVCC_HEAD:
                raise ValueError("short extradata")
            found, length_bytes = _sets_in_avcc(extradata), (extradata[4] & 3) + 1
        else:
            found, length_bytes = _split_start_codes(extradata), 0
        units = [unit for kind in (SPS, PPS) for unit in found if kind_of(unit) == kind]
        if {kind_of(unit) for unit in units} != {SPS, PPS}:
            raise ValueError("no parameter sets")
        if any(kind_of(unit) == SPS and unit[1] not in _PROFILES for unit in units):
            raise ValueError("another profile")
        return ParameterSets(tuple(units), length_bytes)

    def split(self, packet: bytes) -> list[bytes]:
        """The NAL units of a packet of the stream.

        Args:
            packet: its bytes.

        Raises:
            ValueError: it is malformed.
        """
        units = _split_lengths(packet, self.length_bytes) if self.length_bytes else _split_start_codes(packet)
        if not units or not all(units):
            raise ValueError("an empty NAL unit")
        return units

    @property
    def numbers(self) -> set[int]:
        """The numbers of all sequence and picture parameter sets."""
        return set(map(_number_of, self.units))

    @property
    def rank(self) -> tuple[int, int]:
        """The highest profile and level."""
        return max((unit[1], unit[3]) for unit in self.units if kind_of(unit) == SPS)


def _sets_in_avcc(extradata: bytes) -> list[bytes]:
    units: list[bytes] = []
    at, left = _AVCC_HEAD, extradata[5] & 31
    for _ in (SPS, PPS):
        for _ in range(left):
            size = int.from_bytes(extradata[at : at + 2], "big")
            units.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
        if at > len(extradata) or not all(units):
            raise ValueError("short extradata")
        left = extradata[at] if at < len(extradata) else 0
        at += 1
    return units


def _split_lengths(data: bytes, length_bytes: int) -> list[bytes]:
    units, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes + size
        if at > len(data):
            raise ValueError("a NAL unit that is longer than its packet")
        units.append(data[at - size : at])
    return units


def _split_start_codes(data: bytes) -> list[bytes]:
    head, *units = data.split(_START)
    if head.strip(b"\0"):
        raise ValueError("no start code")
    return [unit.rstrip(b"\0") for unit in units]


def _number_of(unit: bytes) -> int:
    """seq_parameter_set_id or pic_parameter_set_id: the first Exp-Golomb code (ITU-T H.264, 9.1)."""
    payload = unit[4:8] if kind_of(unit) == SPS else unit[1:5]
    bits = "".join(f"{byte:08b}" for byte in payload)
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "0", 2) - 1
