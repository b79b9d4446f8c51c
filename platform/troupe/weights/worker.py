"""The weight server, and the relay of each node of a cluster, as workers of a run."""

import asyncio
from contextlib import suppress

from troupe.jobs.setting import (
    RELAY,
    RELAY_ADDRESS,
    SERVED,
    Connections,
    WorkerSetting,
    read_address,
    server_address,
)
from troupe.runs import write_aside
from troupe.store import StoreError
from troupe.store.board import Board
from troupe.weights.relay import Upstream
from troupe.weights.server import KEEP, PortError, serve

_LOOK_SECONDS = 0.1
_LAST_SECONDS = 3.0
_REMIND_SECONDS = 1.0


class WeightServer:
    """Serves the run's weights on its node's address and tells the board where."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Serve until the run is told to stop and those who watch have left, or a little longer."""
        with self._setting.open() as ends:
            asyncio.run(self._serve(ends))

    async def _serve(self, ends: Connections) -> None:
        try:
            await self._listen(ends, _port(server_address(ends.board)()))
        except PortError:
            await self._listen(ends, 0)

    async def _listen(self, ends: Connections, port: int) -> None:
        stop = asyncio.Event()
        watching = [asyncio.create_task(_watch(ends, stop))]

        def announce(address: str) -> None:
            ends.board.put("weights", {"address": address})
            watching.append(asyncio.create_task(_remind(ends.board, address)))

        try:
            await serve(
                self._setting.node_folder / SERVED,
                token=self._setting.weights_token,
                on_ready=announce,
                stop=stop,
                host=self._setting.host,
                port=port,
                tls=self._setting.tls,
                pins=self._setting.run_folder / "pinned",
                keep=KEEP + ends.job.lag,
                metrics=ends.metrics,
            )
        finally:
            for task in watching:
                task.cancel()


class Relay:
    """Takes weights from the run's server, once for all workers of a node, and serves them on loopback."""

    def __init__(self, setting: WorkerSetting) -> None:
        self._setting = setting

    def run(self) -> None:
        """Serve until the run is told to stop and those who watch have left, or a little longer."""
        with self._setting.open() as ends:
            asyncio.run(self._serve(ends))

    async def _serve(self, ends: Connections) -> None:
        try:
            await self._listen(ends, _port(read_address(self._setting.node_folder)))
        except PortError:
            await self._listen(ends, 0)

    async def _listen(self, ends: Connections, port: int) -> None:
        setting, stop = self._setting, asyncio.Event()
        watching = asyncio.create_task(_watch(ends, stop))
        upstream = Upstream(server_address(ends.board), setting.weights_token, setting.tls)
        try:
            await serve(
                setting.node_folder / RELAY,
                token=setting.weights_token,
                on_ready=lambda address: write_aside(setting.node_folder / RELAY_ADDRESS, address),
                stop=stop,
                port=port,
                upstream=upstream,
                keep=KEEP + ends.job.lag,
                metrics=ends.metrics,
            )
        finally:
            watching.cancel()


async def _watch(ends: Connections, stop: asyncio.Event) -> None:
    """Set `stop` once the run is to stop and no call can be hurt by it any more."""
    while not ends.reporter.stop.is_set():
        await asyncio.sleep(_LOOK_SECONDS)
    # An actor in the middle of a fetch would take this server for dead, and wait for another.
    for _ in range(round(_LAST_SECONDS / _LOOK_SECONDS)):
        if not ends.metrics.snapshot().get("watchers"):
            break
        await asyncio.sleep(_LOOK_SECONDS)
    stop.set()


async def _remind(board: Board, address: str) -> None:
    """Tell the address again to a store that lost its memory."""
    while True:
        await asyncio.sleep(_REMIND_SECONDS)
        with suppress(StoreError):  # it is away; it may come back
            if await asyncio.to_thread(board.get, "weights") is None:
                await asyncio.to_thread(board.put, "weights", {"address": address})


def _port(address: str | None) -> int:
    """The port that an earlier server of the run had: its clients find this one at once."""
    port = (address or "").rpartition(":")[2]
    return int(port) if port.isdecimal() else 0
