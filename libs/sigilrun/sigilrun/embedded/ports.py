"""Which loopback ports a data folder uses.

Ports are chosen at the first run and kept, so that a server that restarts keeps its address. They come from
below the kernel's range for outgoing connections: a port from that range could be borrowed by any client in
the second its server is down. A kept port that is taken is chosen anew; a port that somebody asked for by
number and is taken is refused by name.
"""

import json
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from sigilrun.embedded import folder
from sigilrun.embedded.errors import EmbeddedError, PortTaken

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 20_000, 32_000
_TRIES = 500


def is_free(port: int) -> bool:
    """True if a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger after a restart don't count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(avoid: Sequence[int] = ()) -> int:
    """A free loopback port from our range.

    Raises:
        EmbeddedError: none was found, which means the machine is full of servers.

    """
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in avoid and is_free(port):
            return port
    raise EmbeddedError(f"no free port between {_FIRST} and {_LAST}")


def require(port: int) -> int:
    """The given port, if it is one and free.

    Raises:
        PortTaken: it is in use, or may not be used by us.

    """
    if not 0 < port < 65_536:
        raise PortTaken(f"port {port} isn't a port number between 1 and 65535")
    if not is_free(port):
        raise PortTaken(f"port {port} on {LOOPBACK} is taken by another program")
    return port


def choose(path: Path, names: Sequence[str], given: dict[str, int] | None = None) -> dict[str, int]:
    """Ports for `names`: the given ones, else those kept in `path`, else new ones; the result is kept.

    Raises:
        PortTaken: a given one is in use.

    """
    chosen = {name: require(port) for name, port in (given or {}).items()}
    kept = _read(path)
    for name in names:
        if name in chosen:
            continue
        port = kept.get(name)
        if port is None or port in chosen.values() or not is_free(port):
            port = free_port(tuple(chosen.values()))
        chosen[name] = port
    folder.write_private(path, json.dumps({**kept, **chosen}, indent=1).encode() + b"\n")
    return chosen


def _read(path: Path) -> dict[str, int]:
    """What was kept; a file that doesn't read as ports is replaced, for it holds nothing that can be lost."""
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {name: port for name, port in kept.items() if type(port) is int and 0 < port < 65_536}
