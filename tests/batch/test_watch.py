"""The watcher, without its thread that listens to the file system."""

import time
from pathlib import Path

from vderain.batch.plan import Selection
from vderain.batch.watch import Watcher


def test_conflicting_names_do_not_block_other_files(tmp_path: Path) -> None:
    card, problems = tmp_path / "card", list[str]()
    card.mkdir()
    watcher = Watcher(
        Selection((str(card),), allow_empty=True), tmp_path / "out", lambda what, cure: problems.append(what), 0.05
    )

    def returned() -> list[str]:
        found: list[str] = []
        for _ in range(3):  # a file is looked at twice before it counts as complete
            time.sleep(0.06)
            found += [item.target for item in watcher()]
        return found

    (card / "y.wmv").touch()
    assert returned() == ["y.mp4"]
    for name in ("y.mp4", "z.mp4"):
        (card / name).touch()
    watcher._changed.set()
    assert returned() == ["z.mp4"], "the result of y.wmv is not replaced"
    assert len(problems) == 1
    assert "would both become" in problems[0]
