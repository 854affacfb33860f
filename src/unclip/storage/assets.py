"""Where what comes with the package lies. Nothing heavy is imported here: help asks it too."""

from pathlib import Path


def bundled(name: str) -> Path:
    """A folder that comes with the package: "model", "judge"."""
    return Path(__file__).parents[1] / "assets" / name
