"""How a batch retries, saves progress and waits for new files. Imports nothing heavy, so that `--help` stays fast."""

from dataclasses import dataclass

from vderain.media.encode import SEGMENT_FRAMES

SETTLE_S = 5.0  # a recorder writes at least this often; a file that is unchanged for longer is complete


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What to do about failures.

    Attributes:
        retries: further attempts where a worker died, timed out, or failed in a way that may not repeat.
        fail_fast: stop at the first file that failed.
        retry_failed: process files again that are known to be damaged.
        segment_frames: see `process`.
    """

    retries: int = 1
    fail_fast: bool = False
    retry_failed: bool = False
    segment_frames: int = SEGMENT_FRAMES
