"""Finds files of weights by the name of a released model or by path, and hashes them; does not import torch."""

import hashlib
from pathlib import Path

from vderain.errors import CheckpointError

WEIGHTS = Path(__file__).parent / "weights"
DEFAULT_MODEL = "base"
DROPS_MODEL = "drops"  # removes raindrops on the windshield, beside any other model

GLASS_MODEL = "glass"  # looks through the raindrops that the one above has found


def released_models() -> list[str]:
    """Names of the generators that ship with the program."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def weights_file(model: str) -> Path:
    """Path of a model's file.

    Args:
        model: name of a released model, or path of a file.

    Raises:
        CheckpointError: the model does not exist.
    """
    path = next((p for p in (WEIGHTS / f"{model}.safetensors", Path(model)) if _is_file(p)), None)
    if path is None:
        known = ", ".join(released_models()) or "none"
        raise CheckpointError(
            f"there is no model {model!r}.", f"Released models: {known}; or give a .safetensors file."
        )
    return path


def weights_hash(model: str) -> str:
    """SHA-256 of a model's file, in hexadecimal.

    Raises:
        CheckpointError: the model does not exist, or its file cannot be read.
    """
    path = weights_file(model)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the system
        return False
