"""Measures the structure of the package: sizes, prose, types and the import graph.

    python docs/structure.py [ROOT] [--json]

ROOT is a checkout; default is the one that this file is in. All figures but the flags come from the text of
``ROOT/vderain`` and ``ROOT/tests``, which are not imported. Definitions:

* **lines**: all lines of a file, blank ones too. **files**: ``*.py``, ``__init__.py`` too; the median file is without.
* **comments**: comment tokens, those at the end of a line too; per 100 lines that are not blank.
* **docstring lines**: lines from the opening to the closing quotes of modules, classes and functions; likewise.
* **function**: ``def`` or ``async def`` at any depth. Its length is from ``def`` to its last line, docstring included,
  decorators not. It is *public* where neither its name, nor its class, nor a function around it begins with ``_`` or
  is a function.
* **typed**: functions whose parameters (``self`` and ``cls`` apart) and return value all have annotations.
* **parameters**: all of them, ``self`` and ``cls`` apart.
* **floors**: number of modules on the longest chain in which each imports the next, when imports inside functions and
  under ``TYPE_CHECKING`` are left out; a second figure includes imports inside functions. Modules on one cycle share
  one floor. **cycles** are counted with imports inside functions.
* **single importer**: modules that exactly one other module of the package imports, anywhere; ``__init__`` apart.
* **Any**: occurrences of the name ``Any``, its imports too.
* **flags**: options that ``vderain process --help`` lists, ``--help`` apart; the command line is imported for it.
"""

import argparse
import ast
import io
import json
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

PACKAGE = "vderain"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One function of a module.

    Attributes:
        name: dotted, from the module on.
        lines: from ``def`` to the last line.
        is_public: can be called from other modules by convention.
        docstring: its text; empty where there is none.
        parameters: how many, ``self`` and ``cls`` apart.
        is_typed: every parameter and the return value are annotated.
    """

    name: str
    lines: int
    is_public: bool
    docstring: str
    parameters: int
    is_typed: bool


class Module:
    """One parsed source file."""

    def __init__(self, path: Path, root: Path) -> None:
        parts = path.relative_to(root).with_suffix("").parts
        self.path = path
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.is_package = parts[-1] == "__init__"
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def filled_lines(self) -> int:
        return sum(bool(line.strip()) for line in self.text.splitlines())

    @property
    def comments(self) -> int:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(token.type == tokenize.COMMENT for token in tokens)

    @property
    def docstring_lines(self) -> int:
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, DOCUMENTED) and ast.get_docstring(node)]
        return sum((node.body[0].end_lineno or 0) - node.body[0].lineno + 1 for node in nodes)

    @cached_property
    def functions(self) -> list[Function]:
        return list(_functions(self.tree, (), is_public=True))

    @property
    def uses_of_any(self) -> int:
        names = [node for node in ast.walk(self.tree) if isinstance(node, ast.Name | ast.alias)]
        return sum((node.id if isinstance(node, ast.Name) else node.name) == "Any" for node in names)


def _functions(node: ast.AST, path: tuple[str, ...], is_public: bool) -> Iterator[Function]:
    """All functions below a node, depth first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            inside = (*path, child.name)
            seen = is_public and not child.name.startswith("_")
            yield _function(child, ".".join(inside), seen)
            yield from _functions(child, inside, is_public=False)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, (*path, child.name), is_public and not child.name.startswith("_"))
        elif not isinstance(child, ast.expr):  # no function is defined inside an expression
            yield from _functions(child, path, is_public)


def _function(node: Definition, name: str, is_public: bool) -> Function:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    given = [argument for argument in every if argument.arg not in ("self", "cls")]
    given += [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
    typed = node.returns is not None and all(argument.annotation for argument in given)
    lines = (node.end_lineno or 0) - node.lineno + 1
    return Function(name, lines, is_public, ast.get_docstring(node) or "", len(given), typed)


class ImportGraph:
    """Which module of the package imports which.

    Attributes:
        at_import: edges that hold when a module is imported.
        anywhere: the same with imports inside functions.
        with_types: the same with imports for type checkers only.
    """

    def __init__(self, modules: list[Module]) -> None:
        self._known = {module.name for module in modules}
        self.at_import: dict[str, set[str]] = {module.name: set() for module in modules}
        self.anywhere: dict[str, set[str]] = {module.name: set() for module in modules}
        self.with_types: dict[str, set[str]] = {module.name: set() for module in modules}
        for module in modules:
            self._add(module, module.tree, in_function=False, for_types=False)

    def _add(self, module: Module, node: ast.AST, in_function: bool, for_types: bool) -> None:
        for target in self._targets(module, node):
            self.with_types[module.name].add(target)
            if not for_types:
                self.anywhere[module.name].add(target)
            if not for_types and not in_function:
                self.at_import[module.name].add(target)
        inside = in_function or isinstance(node, FUNCTIONS)
        for field, value in ast.iter_fields(node):
            types = for_types or (field == "body" and isinstance(node, ast.If) and _is_type_checking(node.test))
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.expr):
                    self._add(module, child, inside, types)

    def _targets(self, module: Module, node: ast.AST) -> set[str]:
        """Modules of the package that an import statement names; the importing module itself apart."""
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                parts = parts[: len(parts) - node.level + module.is_package]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            deeper = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in self._known else base for name in deeper]
        return {name for name in names if name in self._known and name != module.name}

    @staticmethod
    def floors(edges: dict[str, set[str]]) -> int:
        """Modules on the longest chain of imports; those of one cycle count once."""
        component = {name: number for number, group in enumerate(components(edges)) for name in group}
        below: dict[int, set[int]] = {number: set() for number in component.values()}
        for name, targets in edges.items():
            below[component[name]] |= {component[target] for target in targets} - {component[name]}
        height: dict[int, int] = {}
        for number in below:  # Tarjan's order: a component comes after all that it imports
            height[number] = 1 + max((height[other] for other in below[number]), default=0)
        return max(height.values(), default=0)

    @property
    def cycles(self) -> list[list[str]]:
        return [group for group in components(self.anywhere) if len(group) > 1]

    @property
    def single_importer(self) -> list[str]:
        importers = Counter(target for targets in self.with_types.values() for target in targets)
        return sorted(name for name, count in importers.items() if count == 1)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def components(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972), each after all those that it has edges to."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            place = stack.index(name)
            found.append(stack[place:])
            del stack[place:]

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return found


@dataclass(frozen=True)
class Structure:
    """The figures of a checkout; see the docstring of this file for what they mean."""

    files: int
    lines: int
    median_file_lines: float
    longest_file: tuple[str, int]
    comments_per_100_lines: float
    docstring_lines_per_100_lines: float
    documented_functions_percent: float
    documented_public_functions_percent: float
    typed_functions_percent: float
    median_function_lines: float
    longest_function: tuple[str, int]
    floors: int
    floors_with_imports_inside_functions: int
    cycles: list[list[str]]
    modules_with_a_single_importer: list[str]
    test_functions: int
    test_lines_per_line: float
    uses_of_any: int
    flags_of_process: int
    process_lines: int
    public_functions_with_three_parameters: int
    of_them_with_args_percent: float


def measure(root: Path) -> Structure:
    """Measure a checkout.

    Args:
        root: the folder that holds ``vderain`` and ``tests``.
    """
    modules = [Module(path, root) for path in sorted((root / PACKAGE).rglob("*.py"))]
    tests = [Module(path, root) for path in sorted((root / "tests").rglob("*.py"))]
    functions = [(module, function) for module in modules for function in module.functions]
    plain = [function for _, function in functions]
    public = [function for function in plain if function.is_public]
    many = [function for function in public if function.parameters >= 3]
    lines = sum(module.lines for module in modules)
    filled = sum(module.filled_lines for module in modules)
    graph = ImportGraph(modules)
    longest_module = max(modules, key=lambda module: module.lines)
    longest_in, longest = max(functions, key=lambda pair: pair[1].lines)
    return Structure(
        files=len(modules),
        lines=lines,
        median_file_lines=median(module.lines for module in modules if not module.is_package),
        longest_file=(longest_module.path.relative_to(root).as_posix(), longest_module.lines),
        comments_per_100_lines=round(100 * sum(module.comments for module in modules) / filled, 1),
        docstring_lines_per_100_lines=round(100 * sum(module.docstring_lines for module in modules) / filled, 1),
        documented_functions_percent=percent(bool(function.docstring) for function in plain),
        documented_public_functions_percent=percent(bool(function.docstring) for function in public),
        typed_functions_percent=percent(function.is_typed for function in plain),
        median_function_lines=median(function.lines for function in plain),
        longest_function=(f"{longest_in.name}.{longest.name}", longest.lines),
        floors=graph.floors(graph.at_import),
        floors_with_imports_inside_functions=graph.floors(graph.anywhere),
        cycles=graph.cycles,
        modules_with_a_single_importer=graph.single_importer,
        test_functions=sum(f.name.split(".")[-1].startswith("test_") for module in tests for f in module.functions),
        test_lines_per_line=round(sum(module.lines for module in tests) / lines, 2),
        uses_of_any=sum(module.uses_of_any for module in modules),
        flags_of_process=flags_of_process(root),
        process_lines=next(f.lines for m, f in functions if (m.name, f.name) == (f"{PACKAGE}.process", "process")),
        public_functions_with_three_parameters=len(many),
        of_them_with_args_percent=percent("Args:" in function.docstring for function in many),
    )


def percent(facts: Iterator[bool]) -> float:
    """Share of facts that hold."""
    every = list(facts)
    return round(100 * sum(every) / len(every), 1) if every else 0.0


def flags_of_process(root: Path) -> int:
    """Options of ``vderain process``, as its ``--help`` lists them."""
    place = "vderain.cli.main" if (root / PACKAGE / "cli" / "main.py").exists() else "vderain.cli"
    code = (
        f"import typer; from {place} import app\n"
        "process = typer.main.get_command(app).commands['process']\n"
        "print(sum(p.param_type_name == 'option' and not p.hidden and p.name != 'help' for p in process.params))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout)


def table(structure: Structure) -> str:
    """One figure a line; lists are counted."""
    rows = []
    for name, value in asdict(structure).items():
        if isinstance(value, list):
            value = len(value)
        if isinstance(value, tuple):
            value = f"{value[1]} ({value[0]})"
        rows.append(f"{name.replace('_', ' '):46}{value}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--json", action="store_true", help="all figures, lists of names too, as JSON")
    chosen = parser.parse_args()
    structure = measure(chosen.root)
    sys.stdout.write((json.dumps(asdict(structure), indent=2) if chosen.json else table(structure)) + "\n")


if __name__ == "__main__":
    main()
