"""A copy of the package that extensions are added to: a file, and a row in a file that is there."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import unclip

SOURCE = Path(unclip.__file__).parent


@dataclass
class House:
    """The copy lies in `path / "unclip"`; its weights are those of the original."""

    path: Path
    files: list[str] = field(default_factory=list)  # that were added
    rows: list[str] = field(default_factory=list)  # files that got a row

    @classmethod
    def copied(cls, path: Path) -> "House":
        shutil.copytree(SOURCE, path / "unclip", ignore=shutil.ignore_patterns("assets", "__pyc*"))
        (path / "unclip" / "assets").symlink_to(SOURCE / "assets")
        return cls(path)

    def add(self, file: str, text: str) -> None:
        """A new file of the package."""
        place = self.path / "unclip" / file
        assert not place.exists()
        place.write_text(text)
        self.files.append(file)

    def row(self, file: str, before: str, text: str) -> None:
        """Lines before a line of a file that is there; nothing of it is changed or taken away."""
        place = self.path / "unclip" / file
        old = place.read_text()
        assert old.count(before) == 1, f"{before!r} stands {old.count(before)} times in {file}"
        place.write_text(old.replace(before, text + before))
        self.rows.append(file)

    def run(self, script: str) -> str:
        """What a Python script prints, by the copy."""
        environment = os.environ | {"PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-W", "ignore", "-c", _BEGINNING + script]
        done = subprocess.run(
            words, cwd=self.path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert not done.returncode, f"{done.stdout}\n{done.stderr}"
        return done.stdout


_BEGINNING = f"""
import contextlib, io, shlex
from pathlib import Path

import unclip
from unclip.interfaces.cli import main

assert not Path(unclip.__file__).is_relative_to({str(SOURCE)!r})


def command(line):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(shlex.split(line))
    assert code == 0, f"unclip {{line}}: {{code}}: {{said.getvalue()}}"
    return said.getvalue()


def note(path):
    from unclip.outputs.images import read_info
    return read_info(path)["settings"]

"""
