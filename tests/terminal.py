"""Somebody at a terminal: the `sigil` command run as a process, in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PASSPHRASE = "correct horse battery staple"


class Person:
    """A folder to work in, a home for profiles, a file with a passphrase."""

    def __init__(self, work: Path) -> None:
        """Nothing runs yet."""
        self.work = work
        self.data = work / "data"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SIGIL_")},
            "SIGIL_HOME": str(work / "home"),
            "SIGIL_DATA": str(self.data),
            "SIGIL_PASSPHRASE": f"file:{work / 'pass'}",
        }
        (work / "pass").write_text(PASSPHRASE + "\n")
        (work / "pass").chmod(0o600)

    @staticmethod
    def argv(*words: str) -> list[str]:
        """The command as a process."""
        return [sys.executable, "-P", "-m", "cli.main", *words]

    def sigil(self, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it; the exit code must be this one."""
        done = subprocess.run(
            self.argv(*words),
            cwd=self.work,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def ask(self, *words: str, code: int = 0) -> Any:
        """The answer as a program reads it."""
        return json.loads(self.sigil(*words, "--json", code=code).stdout)

    def refused(self, *words: str, code: int = 1) -> dict[str, Any]:
        """The error as a program reads it."""
        told: dict[str, Any] = json.loads(self.sigil(*words, "--json", code=code).stderr.splitlines()[-1])
        return told
