"""What a model folder notes of the data that its stages were trained on."""

from pathlib import Path

import pytest

from unclip.data.trained_on import NOTE, data_of, note
from unclip.data.world.scene import WorldConfig
from unclip.storage.folder import ModelFolder


def test_data_that_others_have_is_noted_and_a_path_is_not(tiny_copy: Path) -> None:
    folder = ModelFolder(tiny_copy)
    assert data_of(folder, ("decoder", "clip")) is None
    note(folder, "clip", "emoji", {"emoji": {"max_objects": 2}})
    note(folder, "decoder", "emoji:shapes", {"emoji": WorldConfig(max_objects=1)})
    found = data_of(folder, ("decoder", "clip"))
    assert found is not None
    assert found[0] == "emoji:shapes"
    assert found[1]["emoji"]["max_objects"] == 1
    note(folder, "decoder", "/home/somebody/pictures", {})
    assert data_of(folder, ("decoder", "clip")) == ("emoji", {"emoji": {"max_objects": 2}})
    assert "somebody" not in str(folder.index())


@pytest.mark.parametrize("wrong", [3, {"clip": 3}, {"clip": {"data": 3, "options": {}}}])
def test_a_note_that_makes_no_sense_is_refused(tiny_copy: Path, wrong: object) -> None:
    folder = ModelFolder(tiny_copy)
    folder.update_index({NOTE: wrong})
    with pytest.raises(ValueError, match="_trained_on"):
        data_of(folder, ("clip",))
