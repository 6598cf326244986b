"""Reports phrases that the project does not use, in code, recipes and documents.

    python tools/check_words.py [FILE...]

Without arguments it checks the whole checkout. The exit code is 1 if a phrase was found. See CONTRIBUTING.md.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("vderain/**/*.py", "configs/*.toml", "docs/*.md", "docs/*.py", "samples/*.*", "README.md")
TEXT = (".py", ".toml", ".md")

# pattern: what to write instead
PHRASES = {
    r"\benters?\b.{0,80}\bleaves?\b": "say what the code does",
    r"^(\"\"\")?Owns ": "say what the code does",
    r"(?<!here )\bis no (?!longer|more|such|way|reason|need|difference|doubt|GPU)[a-z]+\b": "is not a ...",
    r"\banew\b": "again",
    r"\bin words\b": "description",
    r"\bnobody\b": "no one, or a passive",
    r"\bpolite kill\b": "SIGTERM",
    r"\bleaves? whole\b": "is removed",
    r"\bbelieved\b": "used, or assumed",
    r"\bis told\b": "is called with, or receives",
    r"\bforesee": "estimate, or expect",
    r"\bspells? of\b": "intervals",
    r"\bplace to work\b": "name the valid values",
    r"\bhas no part in\b": "does not apply to",
    r"\bthe second look\b": "verification",
    r"\bcomplains?\b": "report",
}
COMPILED = {re.compile(pattern): advice for pattern, advice in PHRASES.items()}


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Search a text.

    Yields:
        The number of a line, the phrase in it, and what to write instead.
    """
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, advice in COMPILED.items():
            found = pattern.search(line)
            if found:
                yield number, found[0], advice


def main(arguments: list[str]) -> int:
    """Check files, and print one line per finding."""
    named = [Path(argument) for argument in arguments]
    found = sorted(path for place in PLACES for path in ROOT.glob(place) if path.suffix in TEXT)
    files = named or found
    count = 0
    for path in files:
        for number, phrase, advice in findings(path.read_text(encoding="utf-8")):
            print(f"{path}:{number}: {phrase!r}: {advice}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
