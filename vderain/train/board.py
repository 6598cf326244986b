"""TensorBoard, where it is installed: numbers and pictures enter, its file of events leaves.

Its own SummaryWriter writes from a thread that a full disk ends for good, with a traceback; here a write that fails
fails where it was asked for, leaves the file whole, and the next one is tried again.
"""

import errno
import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from vderain.evaluation.footage import Picture


def append(path: Path, data: bytes) -> None:
    """Add to a file all of it or nothing.

    Raises:
        OSError: the disk refuses it.
    """
    with path.open("ab", buffering=0) as file:
        size_bytes = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size_bytes)
            raise


class Board:
    """Writes events into a file of their own in a folder.

    Args:
        folder: made where missing.
        iteration: from which the run goes on; TensorBoard forgets what earlier files say of later ones.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the disk refuses it.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(iteration + 1, file_version="brain.Event:2")
        self._write(iteration + 1, session_log=start)

    def scalars(self, iteration: int, values: dict[str, float]) -> None:
        from torch.utils.tensorboard.summary import scalar

        for name, value in values.items():
            self._write(iteration, summary=scalar(name, value))  # type: ignore[no-untyped-call]

    def picture(self, iteration: int, picture: Picture, encoded: bytes) -> None:
        """A picture and the PNG of it."""
        height_px, width_px, colours = picture.shape
        image = self._summaries.Summary.Image(
            height=height_px, width=width_px, colorspace=colours, encoded_image_string=encoded
        )
        value = self._summaries.Summary.Value(tag="pictures", image=image)
        self._write(iteration, summary=self._summaries.Summary(value=[value]))

    def _write(self, iteration: int, **content: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = self._events.Event(wall_time=time.time(), step=iteration, **content)
        record = BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append(self._path, record.getvalue())
