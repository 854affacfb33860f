"""The words of captions, and what a prompt says beyond them."""

from pathlib import Path

import pytest

from tests.interfaces.cli.test_cli import Capture
from unclip import words
from unclip.interfaces.cli import main
from unclip.stages.clip import ClipSettings, ClipStage
from unclip.tokenizer import Tokenizer
from unclip.words import merged, unknown_words, vocabulary, words_in


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
        ClipSettings("tiny", 560, 8), ["a red star"], vocabulary(["a red star", "a Blue café"])
    )
    stage.tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.words == ("red", "star", "blue", "café")
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


def test_the_sentence_names_a_few() -> None:
    assert "the word 'dragon':" in unknown_words(["dragon"])
    assert "the words 'a', 'b', 'c', 'd', 'e', …:" in unknown_words(list("abcdefg"))


def test_generate_says_it_once(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["generate", "a red dragon", "a blue dragon and a circle", "-o", str(tmp_path)]
    options = ["--model", str(tiny_model), "--steps", "fast", "--precision", "fp32"]
    assert main([*command, *options]) == 0
    said = capsys.readouterr().err
    assert said.count("'dragon'") == 1
    assert "'circle'" not in said


def test_the_bundled_model_knows_its_world() -> None:
    from unclip.data.registry import open_source
    from unclip.storage.folder import bundled

    tokenizer = Tokenizer.from_pretrained(bundled("model") / "tokenizer")
    world = {
        "max_objects": 2,
        "textures": ["plain"],
        "styles": ["plain"],
        "sizes": ["medium", "large"],
    }
    held_out = open_source("emoji:shapes", size=32, split="held-out", options={"emoji": world})
    for index in range(200):
        assert not tokenizer.unseen(held_out.caption(index)), held_out.caption(index)
    assert tokenizer.unseen("a photo of a dragon") == ["photo", "dragon"]
