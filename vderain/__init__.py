"""Removes rain from videos, and leaves everything else of the file as it was.

`Derainer` removes rain from frames in memory. It is imported on first use, because PyTorch takes seconds to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vderain.derainer import Derainer as Derainer

__version__ = "0.1.0"
__all__ = ["Derainer", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Derainer":
        return import_module("vderain.derainer").Derainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
