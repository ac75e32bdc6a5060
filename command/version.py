"""The program's version: pyproject.toml is where it stands."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def program_version() -> str:
    """Return the program's version."""
    import tomllib  # not for ``--help``

    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"]
