"""Layers of the package: which package imports which, and which library is used where."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vderain"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


def test_no_module_imports_from_a_layer_above() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_contract_reports_an_upward_import(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "vderain", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "vderain" / "media" / "frame.py").open("a") as file:
        file.write("\nimport vderain.restore.inference\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert "vderain.media.frame -> vderain.restore.inference" in done.stdout


def importers_of(library: str) -> set[str]:
    """Modules of the package that import a library, as paths below the package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == library for name in names):
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_only_the_command_line_imports_terminal_libraries(library: str) -> None:
    assert {path for path in importers_of(library) if not path.startswith("cli/")} == set()


def test_no_module_calls_print() -> None:
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        printing = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        assert not printing, path


def test_only_the_media_package_imports_pyav() -> None:
    outside = {path for path in importers_of("av") if not path.startswith("media/")}
    assert outside <= {"cli/info.py"}, "`vderain info` prints FFmpeg's version"
