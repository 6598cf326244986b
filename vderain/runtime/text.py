"""Text that came from outside: names of files, streams and tags may hold anything."""

import re

# control characters, line separators, direction overrides, and bytes that are not UTF-8 (surrogate escapes)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """Escape characters that a terminal or a browser would act on, and those that cannot be printed."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found[0])[1:-1]
