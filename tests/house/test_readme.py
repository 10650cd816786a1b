"""What the README promises is what the program does: its story is run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


def story() -> str:
    """The block of the story."""
    found = re.search(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.journey
def test_the_story_of_the_readme_runs_as_it_stands(tmp_path):
    """Every line of it, on a bare folder, ending in a verified proof and a replayed ledger; nothing is left running."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SIGIL_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SIGIL_HOME": str(tmp_path / "home"),
    }
    script = f"set -euo pipefail\ntrap 'sigil down >/dev/null 2>&1 || true' EXIT\n{story()}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "verified" in lines
    assert any(line.startswith("genesis ") for line in lines[-8:]), done.stdout
    assert not (tmp_path / "data" / "run.json").exists()
    assert not any("Good morning" in path.read_text("utf-8", "replace") for path in (tmp_path / "data/logs").iterdir())


def test_every_page_that_the_readme_names_is_there():
    """No dead end."""
    root = README.parent
    for name in re.findall(r"^\| `([^`]+)` \|", README.read_text("utf-8"), re.MULTILINE):
        assert list(root.glob(name)), name
