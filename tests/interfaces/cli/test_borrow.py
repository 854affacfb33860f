"""`unclip borrow`."""

import shutil
from pathlib import Path

import pytest

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces.cli import main
from unclip.storage.folder import ModelFolder


def test_the_command(
    tiny_model: Path,
    tiny_copy: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tiny_copy / "super_res_first")
    words = ["borrow", "upsampler", "--model", "copy"]
    assert main([*words, "--from", str(tiny_model), "--overwrite"]) == 0
    assert "super_res_scheduler of" in capsys.readouterr().out
    assert ModelFolder(tiny_copy).has("super_res_first")
    assert "has nothing to borrow from itself" in refused([*words, "--from", "copy"], capsys)
    assert "makes 16: train one of its own" in refused([*words, "--overwrite"], capsys)
    assert "did you mean 'upsampler'" in refused(["borrow", "upsample", "--model", "m"], capsys)
    assert "no stage was named" in refused(["borrow", "--model", "m"], capsys)
