"""`sigil run | up | down | status`: the embedded house on a data folder."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli import seam
from cli.refusal import NoHouse, Refusal
from cli.seam import Data, State
from sigilrun.embedded import folder
from sigilrun.embedded.errors import EmbeddedError

UP_TIMEOUT_S = 90.0
DOWN_TIMEOUT_S = 40.0
POLL_S = 0.1

Port = Annotated[
    int, typer.Option("--port", min=0, max=65_535, help="the API's port; 0 keeps the folder's own or takes a free one")
]


def run(state: State, data: Data = Path("data"), port: Port = 0) -> None:
    """Run the house in the foreground until Ctrl-C."""
    from sigilrun import house  # noqa: PLC0415 - the stack's libraries are loaded by the verbs that run one

    def ready(what: house.Ready) -> None:
        _show_ready(state, what.address, what.bootstrap_token_file)

    try:
        asyncio.run(house.run(data, port=port or None, tell=ready))
    except EmbeddedError as error:
        raise Refusal(str(error)) from error


def up(state: State, data: Data = Path("data"), port: Port = 0) -> None:
    """Start the house in the background and return when it is ready; nothing to do when it is."""
    info = folder.running(data)
    if info is None:
        _refuse_lost(data)
        process = _detach(data, port)
        info = _until_ready(data, process)
    elif not _is_ready(info):
        info = _until_ready(data, None)
    token = None if _asked(info, "bootstrapped") else folder.DataFolder(data).bootstrap_token_file
    _show_ready(state, info.address, token)


def _show_ready(state: State, address: str | None, token: Path | None) -> None:
    text = f"ready {address}" + ("" if token is None else f"\nbootstrap token: {token}")
    seam.show(state, {"address": address, "bootstrap_token_file": str(token) if token else None}, text)


def down(state: State, data: Data = Path("data")) -> None:
    """Stop the house and wait until it has stopped; nothing to do when it has."""
    pid = folder.holder(data)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while folder.holder(data) == pid:
            if time.monotonic() > deadline:
                raise Refusal(f"process {pid} is still stopping", f"Its log: {_log(data)}")
            time.sleep(POLL_S)
    seam.show(state, {"stopped": pid is not None}, "stopped" if pid else "was not running")


def status(state: State, data: Data = Path("data")) -> None:
    """What runs on a data folder."""
    info = folder.running(data)
    if info is None:
        _refuse_lost(data)
        raise NoHouse(f"nothing runs on {data.absolute()}", "Start it with sigil up, or name its folder with --data.")
    ready = _is_ready(info)
    rows = [{"process": name, "pid": pid} for name, pid in sorted(info.processes.items())]
    bootstrapped = _asked(info, "bootstrapped")
    lines = [
        f"{'ready' if ready else 'not ready'} {info.address}",
        f"{'bootstrapped' if bootstrapped else 'waiting for its Root: sigil init'}, since {info.started_at}",
        seam.table(rows, "process", "pid"),
    ]
    plain = {
        "address": info.address,
        "ready": ready,
        "bootstrapped": bootstrapped,
        "supervisor": info.supervisor,
        "processes": info.processes,
        "nats": info.nats,
        "logs": info.logs,
        "started_at": info.started_at,
    }
    seam.show(state, plain, "\n".join(lines))


def _refuse_lost(data: Path) -> None:
    """A house that nobody can find: it holds the folder, and run.json isn't there."""
    pid = folder.holder(data)
    if pid is not None:
        raise NoHouse(
            f"process {pid} holds {data.absolute()}, and run.json isn't there or can't be read",
            "It may be starting or stopping: wait a moment. Else stop it with sigil down, then sigil up.",
        )


def _detach(data: Path, port: int) -> subprocess.Popen[bytes]:
    """`sigil run` in a session of its own, its words in a log."""
    try:
        folder.refuse_foreign(data)
    except EmbeddedError as error:
        raise Refusal(str(error)) from error
    log = _log(data)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(log, "wb", opener=_private) as output:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "cli.main", "run", "--data", str(data.absolute()), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _until_ready(data: Path, process: subprocess.Popen[bytes] | None) -> folder.RunInfo:
    """Wait for `ready`; an end before it is told with the end of the log."""
    deadline = time.monotonic() + UP_TIMEOUT_S
    while time.monotonic() < deadline:
        info = folder.running(data)
        if info is not None and info.address and _is_ready(info):
            return info
        if process is not None and process.poll() is not None:
            raise Refusal(f"it ended with {process.returncode}; the log ends:\n{_tail(data)}")
        time.sleep(POLL_S)
    if process is not None:
        process.terminate()
    raise Refusal(f"not ready in {UP_TIMEOUT_S:g} s; the log ends:\n{_tail(data)}")


def _is_ready(info: folder.RunInfo) -> bool:
    return _asked(info, "ready")


def _asked(info: folder.RunInfo, what: Literal["ready", "bootstrapped"]) -> bool:
    from sigilrun import house  # noqa: PLC0415 - as above

    ask = house.is_ready if what == "ready" else house.is_bootstrapped
    return info.address is not None and asyncio.run(ask(info.address))


def _log(data: Path) -> Path:
    return data / "logs" / "run.log"


def _tail(data: Path) -> str:
    from sigilrun.embedded.supervisor import log_tail  # noqa: PLC0415 - as above

    return log_tail(_log(data))


def register(app: typer.Typer) -> None:
    """The verbs of the embedded stack."""
    seam.verb(app, "run")(run)
    seam.verb(app, "up")(up)
    seam.verb(app, "down")(down)
    seam.verb(app, "status")(status)
