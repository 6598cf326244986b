"""The released weights, and files of weights by name: a model's name enters, its file and that file's hash leave."""

import hashlib
from pathlib import Path

from vderain.errors import CheckpointError

WEIGHTS = Path(__file__).parent / "weights"
DEFAULT_MODEL = "base"
DROPS_MODEL = "drops"  # for drops on the windshield, beside any of the others


def released_models() -> list[str]:
    """Names of the generators that ship with the program."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def weights_file(model: str) -> Path:
    """The file of a released generator by its name, or the file itself.

    Raises:
        CheckpointError: there is no such model.
    """
    path = next((p for p in (WEIGHTS / f"{model}.safetensors", Path(model)) if _is_file(p)), None)
    if path is None:
        known = ", ".join(released_models()) or "none"
        raise CheckpointError(
            f"there is no model {model!r}.", f"Released models: {known}; or give a .safetensors file."
        )
    return path


def weights_hash(model: str) -> str:
    """SHA-256 of a model's file, in hexadecimal: two files of one name may differ.

    Raises:
        CheckpointError: there is no such model, or its file cannot be read.
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
