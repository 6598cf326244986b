"""`vderain batch --dry-run`: lists the work with the estimated time and space."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vderain.cli.console import counted, err, format_time, one_line, out

if TYPE_CHECKING:
    from vderain.batch.estimate import Estimate
    from vderain.batch.plan import Item, Plan
    from vderain.options import Options


def print_estimate(plan: "Plan", outdir: Path, options: "Options", as_json: bool, quiet: bool) -> None:
    """Print what a run would do. Nothing is written to OUTDIR.

    Args:
        plan: files and their results.
        outdir: folder for the results.
        options: choices for each file.
        as_json: print JSON events.
        quiet: print no progress.
    """
    from vderain.batch.estimate import estimate

    items = _todo(plan, outdir, options)
    if items and not (quiet or as_json):
        err.print("Looking into the files, and measuring the first frames of a few ...")
    found = estimate(items, options) if items else []
    total = _total(found, len(plan.items) - len(items), _free_bytes(outdir))
    if as_json:
        lines = [json.dumps(each, default=str) for each in (*map(_event, found), total)]
    else:
        lines = [one_line(line) for line in (*map(_line, found), _closing(total, outdir))]
    out.print("\n".join(lines), markup=False)  # at once: each call of rich takes a while


def _todo(plan: "Plan", outdir: Path, options: "Options") -> list["Item"]:
    from vderain.batch.ledger import read_only
    from vderain.batch.record import Record, is_done
    from vderain.errors import InputError
    from vderain.options import settings, weights
    from vderain.runtime.files import fingerprint

    known, asked, by = read_only(outdir), settings(options), weights(options)

    def done(item: "Item") -> bool:
        if item.target not in known:  # without reading the source
            return False
        try:
            wanted = Record(item=item, fingerprint=fingerprint(item.source), settings=asked, weights=by)
            return is_done(outdir, known.get(item.target), wanted)
        except InputError:
            return False

    return [item for item in plan.items if not done(item)]


def _free_bytes(outdir: Path) -> int:
    there = next(path for path in (outdir.absolute(), *outdir.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _total(found: list["Estimate"], done: int, free_bytes: int) -> dict[str, Any]:
    sound = [each for each in found if not each.error]
    seconds = [each.seconds for each in sound if each.seconds is not None]
    sizes = [each.bytes_out for each in sound if each.bytes_out is not None]
    return {
        "event": "estimate", "files": len(sound), "would_fail": len(found) - len(sound), "done": done,
        "unknown": len(sound) - len(seconds), "guessed": sum(not each.opened for each in sound),
        "frames": sum(each.frames for each in sound),
        "seconds": round(sum(seconds), 1), "bytes": sum(sizes), "free_bytes": free_bytes,
    }  # fmt: skip


def _event(each: "Estimate") -> dict[str, Any]:
    item = each.item
    facts = {"source": item.source, "target": item.target, "group": item.group, "frames": each.frames}
    seconds = round(each.seconds, 1) if each.seconds is not None else None
    return {
        "event": "would",
        **facts,
        "seconds": seconds,
        "bytes": each.bytes_out,
        "error": each.error,
        "guessed": not each.opened,
    }


def _line(each: "Estimate") -> str:
    if each.error:
        return f"{each.item.name}: would fail: {each.error} {each.cure}"
    item = each.item
    name = item.name if item.name == item.target else f"{item.name} -> {item.target}"
    if each.seconds is None or each.bytes_out is None:
        return f"{name}: of unknown length"
    about = "" if each.opened else "about "
    return (
        f"{name}: {about}{counted(each.frames, 'frame')}, about {format_time(each.seconds)}, "
        f"{each.bytes_out / 1e6:.1f} MB"
    )


def _closing(total: dict[str, Any], outdir: Path) -> str:
    failing = f", {total['would_fail']} would fail" if total["would_fail"] else ""
    done = f", {total['done']} done before" if total["done"] else ""
    unknown = f" (and {total['unknown']} of unknown length)" if total["unknown"] else ""
    opened = total["files"] + total["would_fail"] - total["guessed"]
    guessed = f" {counted(opened, 'file')} were opened, the others judged by their size." if total["guessed"] else ""
    return (
        f"{counted(total['files'], 'file')} to do{failing}{done}: {counted(total['frames'], 'frame')}, about "
        f"{format_time(total['seconds'])} on one device{unknown}; about {total['bytes'] / 1e6:.1f} MB of the "
        f"{total['free_bytes'] / 1e9:.1f} GB that are free in {outdir}.{guessed}"
    )
