"""The folder of results of a batch: what may be written there, and what has to be removed."""

import os
import shutil
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from vderain.batch.plan import Item
from vderain.batch.record import GPX_SUFFIX, THUMBNAILS, WORK, Record
from vderain.errors import OutputError
from vderain.media.gps import is_gpx_of_ours
from vderain.options import Options

if TYPE_CHECKING:
    from vderain.batch.ledger import Ledger


def work_folder(target: str) -> str:
    """The folder below OUTDIR for drafts and segments of a result."""
    return f"{WORK}/{_key(target)}"


def thumbnail_folder(target: str) -> str:
    """The folder below OUTDIR for the thumbnails of a result."""
    return f"{THUMBNAILS}/{_key(target)}"


class ResultFolder:
    """OUTDIR, as far as results and their unfinished parts are concerned.

    Args:
        ledger: the open ledger of the folder.
    """

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger, self._outdir = ledger, ledger.outdir

    def check_target(self, item: Item, options: Options) -> None:
        """Checks that a result may be written under its name.

        Args:
            item: the file.
            options: whether other files may be replaced, and whether a GPS track is written.

        Raises:
            OutputError: a file is there that vderain did not write, or nothing can be written.
        """
        target = self._outdir / item.target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            exists = target.exists() or target.is_symlink()
        except OSError as error:
            raise OutputError(f"{target} cannot be written ({error.strerror}).", "Check the disk.") from error
        if target.is_dir():
            raise OutputError(f"{target} is a directory.", "Rename it, or choose another folder with -o.")
        if options.overwrite:
            return
        cure = "Add --overwrite to replace it, or choose another folder with -o."
        if exists:
            record = self._ledger.record(item.target)
            if record is None or not record.is_intact(self._outdir):
                raise OutputError(f"{target} exists already, and is not a result that the ledger knows.", cure)
        track = target.with_suffix(GPX_SUFFIX)
        if options.gpx and track.exists() and not is_gpx_of_ours(track):
            raise OutputError(f"{track} exists already, and was not written by vderain.", cure)

    def remove_drafts(self, target: str) -> None:
        """Removes drafts of dead workers; the segments of the file stay."""
        for path in (self._outdir / work_folder(target)).glob("*/"):
            shutil.rmtree(path, ignore_errors=True)

    def remove_abandoned_work(self) -> None:
        """Removes what was begun of files that can no longer become done."""
        with suppress(OutputError), self._ledger.transaction():  # a full disk: a later run does it
            kept = {_key(record.target) for record in self._ledger.records().values() if record.is_open}
            for path in (self._outdir / WORK).glob("*/"):
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)

    def remove_old_thumbnails(self, record: Record) -> None:
        """Removes the pictures of an older result of the same file."""
        names = [name for thumbnail in record.result.thumbnails for name in (thumbnail.before, thumbnail.after)]
        shown = {self._outdir / name for name in names}
        for path in (self._outdir / thumbnail_folder(record.target)).glob("*.jpg"):
            if path not in shown:
                with suppress(OSError):  # a viewer holds it open
                    path.unlink()


def _key(target: str) -> str:
    return sha256(os.fsencode(target)).hexdigest()[:16]
