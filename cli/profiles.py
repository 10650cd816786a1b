"""Profiles: which house, which licence, and the session that is open now.

    $SIGIL_HOME or ~/.config/sigil/     0700
        profiles/<name>/                0700
            profile.json                0600  address
            license.toml                0600  a bearer licence is itself the credential
            session.json                0600  the session's token and its own key, good for hours

An owner's key is never kept here: only where its owner put it.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from cli.refusal import Refusal
from sigilrun import private_files
from sigilrun.embedded.folder import write_private

T = TypeVar("T", bound=msgspec.Struct)

MAX_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BadProfile(Refusal):
    """A profile's name or file that can't be used."""

    code = "BAD_PROFILE"


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """profile.json."""

    address: str


def home() -> Path:
    """Where profiles are."""
    given = os.environ.get("SIGIL_HOME")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sigil"


class Profile:
    """One profile on disk."""

    def __init__(self, name: str) -> None:
        """Nothing is read yet."""
        if not _NAME.fullmatch(name):
            raise BadProfile(f"{name[:80]!r} can't name a profile")
        self.name = name
        self.folder = home() / "profiles" / name

    @property
    def about(self) -> About | None:
        """Where the house is; None for a profile that was never used."""
        data = self._read("profile.json")
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=About)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadProfile(f"{self.folder / 'profile.json'}: {error}; run sigil login") from error

    @property
    def license_toml(self) -> str | None:
        """The licence's text."""
        data = self._read("license.toml")
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise BadProfile(f"{self.folder / 'license.toml'}: {error}; run sigil login --license FILE") from error

    def session(self, kind: type[T]) -> T | None:
        """The open session, in the caller's type."""
        data = self._read("session.json")
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadProfile(f"{self.folder / 'session.json'}: {error}; run sigil login") from error

    def keep(
        self, *, about: About | None = None, license_toml: str | None = None, session: msgspec.Struct | None = None
    ) -> None:
        """Write what is given."""
        self._make()
        if about is not None:
            write_private(self.folder / "profile.json", msgspec.json.encode(about) + b"\n")
        if license_toml is not None:
            write_private(self.folder / "license.toml", license_toml.encode())
        if session is not None:
            write_private(self.folder / "session.json", msgspec.json.encode(session) + b"\n")

    def forget_session(self) -> None:
        """Remove the session's token and key."""
        (self.folder / "session.json").unlink(missing_ok=True)

    def _make(self) -> None:
        home().parent.mkdir(parents=True, exist_ok=True)
        for folder in (home(), self.folder.parent, self.folder):
            private_files.make_folder(folder)

    def _read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            data = private_files.read(self.folder / name, MAX_BYTES)
            if data is None:
                raise BadProfile(f"{self.folder / name} is longer than {MAX_BYTES} bytes")
            return data
        return None
