"""Writes docs/fidelity.md from the table of expectations: ``PYTHONPATH=tests python -m fidelity.matrix``."""

from pathlib import Path

from fidelity.compare import COLUMNS
from fidelity.rows import GROUPS, NAMED, NAMED_WITHOUT_LOSS, SUFFIXES, Row

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
HEAD = """# Fidelity

What comes out is the input, less rain. Each row below is a kind of clip that cameras, discs and editors make; each
column is a question that is asked of the output. Every row is run into MP4, Matroska and MOV, once with `--strength 0`
and a lossless encoder, and once with a network and H.264, by `tests/test_fidelity.py`: a core of rows on every change,
all of them with `make test-all`. This page is written from the table of expectations in `tests/fidelity/rows.py` with
each release (`PYTHONPATH=tests python -m fidelity.matrix`).

| column | what has to be so |
|---|---|
| frames | as many pictures as went in |
| pts | each at its own instant, exactly; in Matroska, whose clock ticks in milliseconds, to half a tick |
| pixels | with `--strength 0` and without loss: each sample of each plane, to the bit |
| colour | primaries, transfer, matrix, range, place of chroma, HDR metadata |
| rotation | the display matrix |
| aspect | stored size after cropping, pixel aspect ratio |
| depth | bits and subsampling (without loss) |
| streams | all other streams: their packets to the byte, at their instants |
| metadata | tags of the file and of its streams, languages, marks |
| chapters | begin, end, title |

`=` says that all three containers hold it. Where one cannot, it is named, and the last column has the words of the
closing report and of `--json` (`dropped`, `changed`); the test fails as well where the report names what is not lost.
Where fields become whole pictures, or pictures of another size are converted, samples have to change: `changed`.
Where `ffprobe` is installed, it is asked about each output too.
"""
SHORT = {".mp4": "MP4", ".mkv": "MKV", ".mov": "MOV"}


def document() -> str:
    """The whole page."""
    sections = [HEAD]
    for title, rows in GROUPS.items():
        head = ["clip", *COLUMNS, "named in the report"]
        lines = [_line(head), _line(["---", *[":-:"] * len(COLUMNS), "---"]), *map(_of_row, rows)]
        sections.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(sections)


def _of_row(row: Row) -> str:
    named = {s: _named(row, s) for s in SUFFIXES}
    cells = []
    for column in COLUMNS:
        lacking = [SHORT[s] for s in SUFFIXES if column in named[s]]
        cells.append(
            "changed" if column == "pixels" and not row.pixels else f"not {', '.join(lacking)}" if lacking else "="
        )
    words: dict[str, list[str]] = {}
    for suffix, said in named.items():
        for text in dict.fromkeys(said.values()):
            words.setdefault(text, []).append(SHORT[suffix])
    return _line([row.name, *cells, "; ".join(f"{', '.join(where)}: {text}" for text, where in words.items())])


def _named(row: Row, suffix: str) -> dict[str, str]:
    return {**NAMED.get(row.name, {}).get(suffix, {}), **NAMED_WITHOUT_LOSS.get(row.name, {}).get(suffix, {})}


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
