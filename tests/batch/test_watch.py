"""What a watcher hands out, without the thread that listens to the system."""

import time
from pathlib import Path

from vderain.batch.plan import Selection
from vderain.batch.watch import Watcher


def test_files_of_one_name_do_not_hold_up_the_others(tmp_path: Path) -> None:
    card, said = tmp_path / "card", list[str]()
    card.mkdir()
    watcher = Watcher(Selection((str(card),), patient=True), tmp_path / "out", lambda *line: said.append(line[0]), 0.05)

    def handed_out() -> list[str]:
        found: list[str] = []
        for _ in range(3):  # a file is looked at twice before it counts as complete
            time.sleep(0.06)
            found += [item.target for item in watcher()]
        return found

    (card / "y.wmv").touch()
    assert handed_out() == ["y.mp4"]
    for name in ("y.mp4", "z.mp4"):
        (card / name).touch()
    watcher._changed.set()
    assert handed_out() == ["z.mp4"], "and what was made of y.wmv is not replaced"
    assert len(said) == 1
    assert "would both become" in said[0]
