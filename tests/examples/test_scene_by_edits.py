"""The example script `examples/scene_by_edits.py`, tiny."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "scene_by_edits.py"


def test_it_writes_a_sheet_of_every_edit(tiny_model: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "scene.png"
    words = ["--model", str(tiny_model), "--output", str(sheet), "--size", "16", "--resamples", "1"]
    words += ["--prior-steps", "1", "--decoder-steps", "2"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "a scene of 3 edits, 16 pixels a side" in done.stdout
    with Image.open(sheet) as image:
        assert image.width > 4 * 96
        assert image.height > 2 * 96
