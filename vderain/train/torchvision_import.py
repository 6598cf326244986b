"""Imports torchvision, which is optional, and works around its operators missing beside a CPU build of PyTorch.

PyPI's torchvision for Linux is compiled against CUDA PyTorch. Beside a CPU build its C++ library does not load, and
``import torchvision`` fails with "operator torchvision::nms does not exist". Declaring the two operators that the
import looks up is enough for `transforms.v2` and `utils`, which are pure Python. Detection operators and video I/O
would stay unusable; vderain uses neither.
"""

from functools import cache
from importlib import import_module

import torch

from vderain.errors import UsageError

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a library that is collected takes its operators with it


@cache
def require_torchvision(purpose: str) -> None:
    """Make ``from torchvision.transforms import v2`` and ``from torchvision.utils import ...`` work.

    Args:
        purpose: what needs it, the subject of the error message.

    Raises:
        UsageError: torchvision is missing, or does not fit this version of PyTorch.
    """
    try:
        try:
            import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            _declare_operators()
            import_module("torchvision")
        import_module("torchvision.transforms.v2")
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{purpose} needs torchvision, which cannot be imported ({reason}).",
            "Install it with: pip install 'vderain[train]'.",
        ) from error


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in _OPERATORS:
        library.define(operator)  # type: ignore[no-untyped-call]
    _declared.append(library)
