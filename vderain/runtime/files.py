"""Names the hidden temporary files that are written beside an output until it is complete."""

import hashlib
import os
from pathlib import Path

_LONGEST = 255  # bytes of a name, on nearly all systems


def temporary_path(path: Path, ending: str) -> Path:
    """``.NAME`` and an ending in the same folder; a hash instead of a name that is too long for both.

    Args:
        path: of the output.
        ending: says what the file is, such as ``.partial``.
    """
    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{ending}"
    return path.parent / name
