"""Writes the generated pages again: `docs/openapi.json` and `docs/CATALOGUE.md`. Run from the project's folder.

python -m sigilrun.faces.generate
"""

from pathlib import Path

from sigilrun.faces import catalogue_page, openapi


def pages() -> dict[str, bytes]:
    """Each page's path below the project's folder, and its bytes."""
    return {
        "docs/openapi.json": openapi.encoded(),
        "docs/CATALOGUE.md": catalogue_page.text().encode(),
    }


def write(folder: Path) -> list[str]:
    """Write what differs; the paths written."""
    written = []
    for name, data in pages().items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written.append(name)
    return written


if __name__ == "__main__":
    for name in write(Path.cwd()):
        print(name)  # noqa: T201 - a program for people
