"""Compares two files as ffprobe sees them: a second opinion beside `snapshot`."""

import json
import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

TAGS = ("color_range", "color_space", "color_transfer", "color_primaries")
SILENT = {None, "unknown", "unspecified", "reserved"}


def differences(before: Path, after: Path, main: int) -> list[str]:
    """Compare the frames and tags of the main video.

    Args:
        before, after: the files.
        main: the main video of the first; it is the first video of the second.
    """
    a, b = _probed(before, f"{main}"), _probed(after, "V:0")
    b["color_range"] = b["color_range"] or ("tv" if a["color_range"] == "tv" else None)  # silent means limited
    found = [] if a["frames"] == b["frames"] else [f"{a['frames']} frames became {b['frames']}"]
    for key in (*TAGS, "sample_aspect_ratio"):
        if a[key] not in SILENT and a[key] != b[key] and (key, a[key]) != ("sample_aspect_ratio", "1:1"):
            found.append(f"{key} {a[key]} became {b[key]}")
    if a["rotation"] != b["rotation"]:
        found.append(f"rotation {a['rotation']} became {b['rotation']}")
    steps = [(x, y) for x, y in zip(a["steps"], b["steps"], strict=False) if abs(x - y) > Fraction(1, 500)]
    return found + ([f"a step of {float(steps[0][0])} s became {float(steps[0][1])} s"] if steps else [])


def _probed(path: Path, stream: str) -> dict[str, Any]:
    stream_wants = ",".join((*TAGS, "sample_aspect_ratio"))
    wanted = f"frame=pts_time,best_effort_timestamp_time:stream={stream_wants}:stream_side_data=rotation"
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", wanted, "-of", "json", str(path)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    facts, frames = told["streams"][0], told["frames"]
    times = [Fraction(f.get("pts_time") or f["best_effort_timestamp_time"]) for f in frames]
    turns = [side.get("rotation") for side in facts.get("side_data_list", ()) if "rotation" in side]
    return {
        **{key: facts.get(key) for key in (*TAGS, "sample_aspect_ratio")},
        "frames": len(frames),
        "steps": [y - x for x, y in pairwise(times)],
        "rotation": turns[0] % 360 if turns else 0,
    }
