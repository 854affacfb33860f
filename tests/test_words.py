"""The words of captions, and what a prompt says beyond them."""

import re
from pathlib import Path

import pytest

from tests.conftest import captioned_folder
from tests.interfaces.cli.test_cli import Capture
from unclip import words
from unclip.data.world.world import World
from unclip.interfaces.cli import main
from unclip.interfaces.cli.evaluations.shared import WORLD
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.storage.assets import bundled
from unclip.tokenizer import Tokenizer
from unclip.words import Vocabulary, merged, read_vocabulary, vocabulary, words_in


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A red Star, two stars!", ["red", "star", "two", "stars"]),
        ("the dog's 12 bones", ["the", "dog", "1", "2", "bones"]),
        ("cafe\u0301 CAFÉ Größe", ["café", "größe"]),
        ("Красный круг", ["красный", "круг"]),
        ("赤い丸", ["赤", "い", "丸"]),  # no spaces: a sentence would be one word
        ("3×4 … 🚀 _", ["3", "4"]),
        ("x" * 65, []),
    ],
)
def test_words_of_a_text(text: str, found: list[str]) -> None:
    assert words_in(text) == found


def test_the_most_frequent_words_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["the red star", "the red disc", "the"]
    assert vocabulary(captions) == ("the", "red", "star", "disc")
    monkeypatch.setattr(words, "MOST", 2)
    assert vocabulary(captions) == ("the", "red")
    monkeypatch.setattr(words, "_COUNTED", 3)
    endless = (f"word{chr(97 + i)}" for i in range(20))
    assert len(vocabulary(endless)) == 2
    assert next(endless) == "worde"  # captions that are no language are not counted for ever


def test_vocabularies_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert merged(("a", "b"), ("b", "c")) == ("a", "b", "c")
    monkeypatch.setattr(words, "MOST", 2)
    assert merged(("a", "b"), ("b", "c")) == ("a", "b")


def test_a_tokenizer_keeps_them_with_it(tmp_path: Path) -> None:
    stage = ClipStage.build(
        ClipSettings("tiny", 560, 8),
        ["a red star"],
        Vocabulary(vocabulary(["a red star", "a Blue café"]), {"colours": ("red", "blue")}),
    )
    stage.tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.words == ("red", "star", "blue", "café")
    assert again.vocabulary == stage.tokenizer.vocabulary
    assert again.unseen("A blue dragon, a red DRAGON in a cafe\u0301") == ["dragon", "in"]
    (tmp_path / words.FILE).unlink()  # a model of others
    assert Tokenizer.from_pretrained(tmp_path).unseen("a blue dragon") == []
    (tmp_path / words.FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        Tokenizer.from_pretrained(tmp_path)


def test_captions_that_are_cut_are_counted() -> None:
    tokenizer = Tokenizer.train(["a red star", "a blue heart"], 560, 6)
    assert tokenizer.too_long(["a red star", "a blue heart", "a red star a blue heart"]) == 1
    assert tokenizer.too_long([]) == 0
    assert tokenizer.too_long(["a red star"] * 1500 + ["a red " * 500_000] * 3) == 3


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"shapes": "star"}', "'shapes' must be a list of names"),
        ('{"shapes": []}', "'shapes' must be a list of names"),
        ('{"shapes": ["star", 3]}', "'shapes' must be a list of names"),
        (f'{{"shapes": ["{"x" * 201}"]}}', "'shapes' must be a list of names"),
        ("[]", "must hold a JSON object"),
        ("{" + ", ".join(f'"{i}": ["x"]' for i in range(17)) + "}", "has 17 kinds of subjects"),
    ],
)
def test_subjects_that_are_none_are_refused(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / words.FILE).write_text("red\n")
    (tmp_path / words.SUBJECTS).write_text(written)
    with pytest.raises(ValueError, match=said):
        read_vocabulary(tmp_path)


def test_the_sentence_names_a_few() -> None:
    known = Vocabulary(("on", "the", "red", "star", "blue"), {"colours": ("red", "blue")})
    assert known.advice(["dragon"]) == (
        "'dragon' means nothing to this model, which knows colours: red, blue"
    )
    assert "'a', 'b', 'c', 'd', 'e', … mean nothing" in known.advice(list("abcdefg"))


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("hart", "heart"),
        ("bleu", "blue"),
        ("trianlge", "triangle"),
        ("three", None),
        ("cat", None),
        ("king", None),  # no "ring": slips mostly keep the initial
        ("dragon", None),
        ("hand", None),
    ],
)
def test_a_slip_is_told_from_another_word(word: str, near: str | None) -> None:
    known = Vocabulary(
        ("the", "at", "and", "ring", "heart", "blue", "triangle", "horse", "diamond")
    )
    assert known.nearest(word) == near
    assert (f"'{word}' (did you mean '{near}'?)" in known.advice([word])) == bool(near)


def test_a_vocabulary_is_a_line_of_subjects_or_of_frequent_words() -> None:
    assert str(Vocabulary(("red", "of"), {"shapes": ("star", "disc"), "places": ("on",)})) == (
        "shapes: star, disc; places: on"
    )
    own = Vocabulary(("the", "face", "of", "cat", *(f"word{chr(97 + i)}" for i in range(20))))
    assert str(own).startswith("22 words, most often: face, cat, worda, ")
    assert str(own).endswith("wordn and 6 more")
    assert str(Vocabulary(("the", "of"))) == "2 words, most often: the, of"
    assert "Face of a CAT" in own
    assert "a dog" not in own


def test_data_that_knows_what_its_captions_name_says_so(tmp_path: Path) -> None:
    from unclip.data.registry import open_source
    from unclip.data.sources import vocabulary_of

    world = open_source("emoji:shapes", size=32, options={"emoji": {"shapes": ["star"]}})
    assert vocabulary_of(world, ["a red star"]).subjects["shapes"] == ("star",)
    captioned_folder(tmp_path / "mine", 2, size=32)
    mine = open_source(str(tmp_path / "mine"), size=32)
    assert vocabulary_of(mine, mine.captions()).subjects == {}


def test_generate_says_it_once(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["generate", "a red dragon", "a blue dragon and a circle", "-o", str(tmp_path)]
    options = ["--model", str(tiny_model), "--steps", "fast", "--precision", "fp32"]
    assert main([*command, *options]) == 0
    said = capsys.readouterr().err
    assert said.count("'dragon'") == 1
    assert "'circle'" not in said
    assert "which knows " in said


def test_info_and_help_say_what_a_model_knows(tiny_model: Path, capsys: Capture) -> None:
    assert main(["info", str(tiny_model)]) == 0
    known = read_vocabulary(tiny_model / "tokenizer")
    assert re.search(rf"^knows +{re.escape(str(known))}$", capsys.readouterr().out, re.MULTILINE)
    assert main(["generate", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"The bundled model knows {read_vocabulary(bundled('model') / 'tokenizer')}." in said


def test_the_bundled_model_knows_its_world() -> None:
    from unclip.data.registry import open_source

    tokenizer = Tokenizer.from_pretrained(bundled("model") / "tokenizer")
    look = {name: getattr(WORLD, name) for name in ("max_objects", "textures", "styles", "sizes")}
    held_out = open_source("emoji:shapes", size=32, split="held-out", options={"emoji": look})
    for index in range(200):
        assert not tokenizer.unseen(held_out.caption(index)), held_out.caption(index)
    assert tokenizer.unseen("a photo of a dragon") == ["photo", "dragon"]
    # Its subjects are those of that world; none is a word that captions never had.
    assert tokenizer.vocabulary is not None
    assert tokenizer.vocabulary.subjects == World(WORLD).subjects
    for kind, names in tokenizer.vocabulary.subjects.items():
        assert kind == "objects" or all(name in tokenizer.vocabulary for name in names), kind
