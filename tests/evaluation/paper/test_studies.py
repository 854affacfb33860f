"""Every study of the paper: cells that can be measured, and verdicts of what was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unclip.evaluation.judge.network import Detections
from unclip.evaluation.paper import (
    classes,
    diversity,
    importance,
    letters,
    manipulations,
    robustness,
)
from unclip.evaluation.paper.catalogue import STUDIES
from unclip.evaluation.paper.lab import Ask, Lab, Seen
from unclip.evaluation.paper.study import Study, plain, run

ORDER = "adcbghefi"


def test_the_important_ones_come_first() -> None:
    assert "".join(STUDIES) == ORDER
    assert all(study.letter == letter for letter, study in STUDIES.items())


@pytest.mark.parametrize("letter", ORDER)
def test_all_of_a_study_is_measured_and_said(
    lab: Lab, tmp_path: Path, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks make the first row's images; the others' are those with noise on their features."""
    monkeypatch.setattr(manipulations, "STEPS", 3)
    study, drawn = STUDIES[letter], lab.draw
    first: list[Seen] = []

    def draw(ask: Ask, *given: Any) -> Seen:
        if not first:
            first.append(drawn(ask, *given))
        times = -(-len(ask.captions) // len(first[0].found))
        found = (first[0].found * times)[: len(ask.captions)]
        features = {
            name: (f.repeat(times, 1) + 0.1 * torch.randn(len(f) * times, f.shape[1]))[: len(found)]
            for name, f in first[0].features.items()
        }
        return Seen(found, features)

    monkeypatch.setattr(lab, "draw", draw)
    rows = run(study, lab, tmp_path, lambda line: None)
    cells = study.cells(lab)
    assert len(rows) == len(cells) > 4
    assert json.loads((tmp_path / study.file).read_text())["rows"] == rows
    assert all(cell.asks for cell in cells if cell.setting.get("guidance", 0) is not None)
    for name in study.columns:
        assert any(name in row["values"] for row in rows), name
    told = study.verdict(rows)
    assert told.endswith(".")
    assert "nan" not in told
    assert len(told) > 100
    study.verdict(rows[:1])  # of a run that was cut


def rows_of(study: Study, *pairs: tuple[dict[str, Any], dict[str, float]]) -> list[dict[str, Any]]:
    return [{"setting": setting, "values": plain(values)} for setting, values in pairs]


def test_the_prior_matters_where_it_is_ahead() -> None:
    def measured(prior: float) -> str:
        rates = {"caption only": 0.4, "z_t in z_i's place": 0.2, "prior: full stack": prior}
        rows = rows_of(importance.STUDY, *(
            ({"condition": name, "guidance": 3.0}, {"exact": rate, "judge fid": 1 - rate})
            for name, rate in rates.items()
        ))  # fmt: skip
        return importance.verdict(rows)

    assert "disagrees" not in measured(0.6)
    assert "the world disagrees: caption only does better" in measured(0.3)


def test_diversity_is_compared_at_the_same_fidelity() -> None:
    curve = rows_of(diversity.STUDY, *(
        ({"model": "GLIDE", "guidance": scale}, {"exact": exact, "judge diversity": variety})
        for scale, exact, variety in ((1.0, 0.2, 1.0), (2.0, 0.6, 0.8), (3.0, 0.8, 0.2))
    ))  # fmt: skip
    wanted = {"setting": {}, "values": plain({"exact": 0.7})}
    assert diversity.at_equal(curve, wanted, "judge diversity") == pytest.approx(0.5)
    beyond = diversity.at_equal(curve, {"setting": {}, "values": plain({"exact": 0.9})}, "exact")
    assert beyond != beyond


def test_a_model_without_variety_has_none_to_lose() -> None:
    rows = [
        {"setting": {"model": model, "guidance": scale},
         "values": plain({"exact": 0.5, "kept": 1.0, "judge diversity": variety})}
        for model, variety in (("unCLIP", 0.2), ("GLIDE", 0.0)) for scale in (1.0, 6.0)
    ]  # fmt: skip
    assert "unCLIP loses 0% of its diversity and GLIDE 0%" in diversity.verdict(rows)


def test_diversity_is_the_distance_within_a_caption() -> None:
    features = torch.tensor([[0.0], [3.0], [6.0], [10.0], [10.0], [10.0]])
    assert diversity.within(features, 3).tolist() == [4.0, 0.0]


def test_classes_know_right_from_wrong(lab: Lab) -> None:
    for name, kind in classes.CLASSES.items():
        scenes = classes.subjects(lab, kind)
        if name == "inside":  # this world has no small objects
            assert not scenes
            continue
        assert len(scenes) == 16
        assert all(kind.right(Detections.of(scene), scene) for scene in scenes)
        empty = Detections((), "nothing")
        assert not any(kind.right(empty, scene) for scene in scenes)


def test_letters_are_read() -> None:
    texts = [letters.text(k) for k in range(60)]
    assert {one.letter for one in texts} == set(letters.LETTERS)
    assert texts[0].caption.startswith('the letter "A" in ')
    reader = letters.Reader(torch.device("cpu"))
    read = [name for part in letters.drawn(texts, 64, 32) for name in reader(part)]
    right = sum(name == one.letter for name, one in zip(read, texts, strict=True))
    assert right >= 54
    assert len(set(reader(torch.rand(20, 3, 32, 32) * 2 - 1))) > 1


def test_wordings_change_the_words_alone(lab: Lab) -> None:
    scenes = lab.paint(robustness.single(lab.config), range(200))[0]
    scene = next(scene for scene in scenes if scene.objects[0].name == "oval")
    caption, thing = scene.plain_caption, scene.objects[0]
    worded = {name: reword(caption, scene) for name, reword in robustness.WORDINGS.items()}
    assert worded["plain"] == caption
    assert " ellipse " in worded["synonyms from training"]
    assert "egg" in worded["unseen shape words"]
    assert sorted(worded["words shuffled"].split()) == sorted(caption.split())
    assert sorted(worded["background first"].replace(",", "").split()) == sorted(caption.split())
    assert f"oval that is {thing.colour}" in worded["noun before adjective"]
    assert sorted(worded["a misspelt shape"]) == sorted(caption)
    assert worded["without a …"] == f"{caption}, without a {robustness.unwanted(scene)}"
