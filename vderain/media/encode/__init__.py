"""Encodes restored frames into a video file. The user's choices are here and import no codec library."""

from dataclasses import dataclass

from vderain.errors import UsageError

CRF_MAX = 63  # the largest value on the scale of any codec (AV1 and VP9; H.264 and HEVC end at 51)
SEGMENT_FRAMES = 300  # frames per segment of a resumable output
# At constant quality the output may grow to several times the size of the source, because it encodes the source's own
# artefacts with care. CAP_FACTOR limits that; measured in docs/benchmarks.md.
CAP_FACTOR = 1.3


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Codec and quality of the output video.

    Attributes:
        codec: h264, hevc, av1, vp9, ffv1, prores, or the name of any FFmpeg video encoder. None selects the source's
            codec, or H.264 where that cannot be encoded.
        crf: constant rate factor on the codec's own scale; lower is better. None selects the codec's default and limits
            the bit rate to `CAP_FACTOR` times the source's.
        preset: speed preset of the encoder. None selects the codec's default.
        fast_preset: that default is a fast one.
        encoder_opts: further encoder options, as (name, value) pairs.
        lossless: encode without loss.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    encoder_opts: tuple[tuple[str, str], ...] = ()
    lossless: bool = False
    fast_preset: bool = False

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= CRF_MAX:
            raise UsageError(f"crf {self.crf:g} is out of range.", f"Give 0 to 51, for av1 and vp9 up to {CRF_MAX}.")
        if self.lossless and self.crf is not None:
            raise UsageError("--lossless has no quality to choose.", "Leave out --crf or --lossless.")
