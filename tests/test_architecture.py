"""The architecture page names only files, functions and classes that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"


def test_every_file_of_the_architecture_page_exists() -> None:
    named = set(re.findall(r"[`\[(]((?:[a-z_0-9]+/)*[a-z_0-9]+(?:\.py|/))[`\])]", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 40
    folders = (ROOT, ROOT / "vderain", ROOT / "vderain/restore", ROOT / "vderain/train", ROOT / "vderain/batch")
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


def test_every_stage_file_is_on_the_architecture_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    stages = {path.name for path in (ROOT / "vderain/restore").glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(stages) if name not in page] == []


def test_every_name_of_the_architecture_page_is_defined_in_its_file() -> None:
    index = PAGE.read_text(encoding="utf-8").partition("## Where is ...?")[2]
    rows = re.findall(r"^\|[^|]+\| `([a-z_0-9/]+\.py)` \| (`.+`) \|$", index, re.MULTILINE)
    assert len(rows) > 20
    missing = [
        f"{name} in {file}"
        for file, names in rows
        for name in re.findall(r"`(\w+)`", names)
        if not re.search(rf"(?:def|class) {name}\b", (ROOT / "vderain" / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
