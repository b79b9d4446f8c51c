"""TensorBoard's event file: scalars, each written at once, so that a full disk is noticed.

tensorboardX's own writer puts a queue and a thread between; its records are used without them.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event


class EventWriter:
    """Writes scalars to a new event file."""

    def __init__(self, folder: Path, time: float) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter  # here, because it imports torch

        name = f"events.out.tfevents.{time:.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(str(folder / name))
        self._write(Event(wall_time=time, file_version="brain.Event:2"))

    def restart(self, step: int, time: float) -> None:
        """Say that the run goes on from `step`: what was written of later steps is no longer shown."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        log = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time, step=step, session_log=log))

    def scalars(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Write named numbers at a step."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        named = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(wall_time=time, step=step, summary=Summary(value=named)))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, event: "Event") -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()
