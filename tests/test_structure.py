"""Budgets for the structure of the package, as ``docs/structure.py`` measures it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", ROOT / "docs" / "structure.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    sys.modules["structure"] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script


script = load_script()


@pytest.fixture(scope="module")
def structure() -> Any:
    return script.measure(ROOT)


def package(folder: Path, **modules: str) -> Any:
    """The import graph of a small package; ``__`` in a name stands for a dot."""
    for name, text in modules.items():
        path = folder / "vderain" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return script.ImportGraph([script.Module(path, folder) for path in sorted((folder / "vderain").rglob("*.py"))])


def test_the_import_graph_has_no_cycle(structure: Any) -> None:
    assert structure.cycles == []


def test_the_longest_chain_of_imports_is_within_budget(structure: Any) -> None:
    assert structure.floors <= 8


def test_every_function_is_typed(structure: Any) -> None:
    assert structure.typed_functions_percent == 100


def test_no_function_is_longer_than_50_lines(structure: Any) -> None:
    assert structure.longest_function[1] <= 50, structure.longest_function


def test_process_fits_on_one_screen(structure: Any) -> None:
    assert structure.process_lines <= 35


def test_floors_count_imports_at_import_time(tmp_path: Path) -> None:
    graph = package(
        tmp_path,
        a="from vderain import b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vderain.d\n",
        b="def f():\n    from .c import x\n",
        c="import vderain.d\n",
        d="",
    )
    assert graph.floors(graph.at_import) == 2
    assert graph.floors(graph.anywhere) == 4
    assert graph.cycles == []
    assert graph.single_importer == ["vderain.b", "vderain.c"]


def test_a_cycle_is_found_and_is_one_floor(tmp_path: Path) -> None:
    graph = package(tmp_path, a="import vderain.b\n", b="def f():\n    import vderain.a\n", c="import vderain.a\n")
    assert graph.cycles == [["vderain.a", "vderain.b"]]
    assert graph.floors(graph.anywhere) == 2
