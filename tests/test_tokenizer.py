"""Ids equal to transformers' CLIPTokenizer, training, and files."""

import json
import random
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.data.world.world import World
from unclip.tokenizer import BOS, EOS, Tokenizer
from unclip.words import Vocabulary, vocabulary

_L = 24
_SCRIPTS = [
    *((0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF)),
    *((0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F)),
    *((0x3040, 0x30FF), (0x4E00, 0x4EFF), (0xAC00, 0xACFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF)),
    *((0x300, 0x36F), (0x1F300, 0x1F6FF), (0x1F1E6, 0x1F1FF), (0xE0020, 0xE007F)),
    *((0x0, 0x1F), (0x7F, 0x9F), (0x2028, 0x2029), (0x660, 0x669), (0x1D400, 0x1D4FF)),
]
_PIECES = [
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "don't", "it'll've", "'", "''s"),
    *("<|startoftext|>", "<|endoftext|>", "<|startoftext", "|>", "<|ENDOFTEXT|>", "<|end oftext|>"),
    *(
        "</w>",
        "a</w>",
        "!",
        "!!",
        "#version: 0.2",
        "Ġ",
        "ÄĠ",
        "\u200d",
        "👩‍🚀",
        "🏳️‍🌈",
        "🇩🇪",
        "é",
        "e\u0301",
    ),
    *(
        "İ",
        "ß",
        "ẞ",
        "ŉ",
        "ﬁ",
        "Σας",
        "ΣΑΣ",
        "12345",
        "½",
        "²",
        "  ",
        "\t",
        "\n\r",
        "\u3000",
        "\xa0",
    ),
    *("a red circle", "Above", "left of", "BLUE", "the", "_", "--", "$3.50", "a"),
]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    world = World()
    return Tokenizer.train((world.scene(i).caption for i in range(400)), 640, _L)


@pytest.fixture(scope="module")
def oracles(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """transformers' tokenizer on our files, and on the tokenizer.json that it writes itself."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save_pretrained(folder)
    first = transformers.CLIPTokenizer.from_pretrained(folder)
    other = tmp_path_factory.mktemp("json")
    first.save_pretrained(other)
    for name in ("vocab.json", "merges.txt"):
        (other / name).unlink(missing_ok=True)
    return [first, transformers.CLIPTokenizer.from_pretrained(other)]


def character(draw: random.Random) -> str:
    if draw.random() < 0.1:
        code = draw.randrange(0x110000)
        return chr(code) if not 0xD800 <= code < 0xE000 else "x"
    return chr(draw.randint(*draw.choice(_SCRIPTS)))


def sentence(draw: random.Random) -> str:
    parts = [
        draw.choice(_PIECES) if draw.random() < 0.5 else character(draw)
        for _ in range(draw.randint(0, 12))
    ]
    return draw.choice(("", " ")).join(parts)


def expected(oracle: Any, texts: list[str]) -> torch.Tensor:
    encoded = oracle(texts, padding="max_length", truncation=True, max_length=_L)
    return torch.tensor(encoded["input_ids"])


def test_ids_equal_transformers_on_20000_strings(ours: Tokenizer, oracles: list[Any]) -> None:
    draw = random.Random(0)
    texts = [sentence(draw) for _ in range(20_000)]
    texts += ["a" * 10_000, "🙂" * 3000, "red circle " * 2000, "", " ", "\0", "'" * 500]
    ids = ours(texts).ids
    for oracle in oracles:
        theirs = expected(oracle, texts)
        wrong = (ids != theirs).any(dim=1).nonzero().flatten().tolist()
        assert not wrong, [(texts[i], ids[i].tolist(), theirs[i].tolist()) for i in wrong[:3]]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_ids_equal_transformers_on_any_text(ours: Tokenizer, oracles: list[Any], text: str) -> None:
    assert ours([text]).ids.tolist() == expected(oracles[0], [text]).tolist()


def test_both_layouts_of_files_read_alike(
    ours: Tokenizer, oracles: list[Any], tmp_path: Path
) -> None:
    ours.save_pretrained(tmp_path / "ours")
    oracles[0].save_pretrained(tmp_path / "theirs")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "theirs" / name).unlink(missing_ok=True)
    texts = ["a red circle above a blue square", "don't! 👩‍🚀", ""]
    for folder in ("ours", "theirs"):
        again = Tokenizer.from_pretrained(tmp_path / folder)
        assert again.vocab == ours.vocab
        assert again.merges == ours.merges
        assert (again.context_length, again.pad_token) == (_L, "!")
        assert torch.equal(again(texts).ids, ours(texts).ids)
    assert Tokenizer.from_pretrained(tmp_path / "ours", 9)(texts).ids.shape == (3, 9)


def test_masks_and_trimming(ours: Tokenizer) -> None:
    tokens = ours(["a", "a red circle", ""])
    ends = (tokens.ids == ours.eos_id).int().argmax(dim=1)
    assert tokens.mask.sum(dim=1).tolist() == (ends + 1).tolist()
    assert (tokens.ids[:, 0] == ours.vocab[BOS]).all()
    assert (tokens.ids[~tokens.mask] == ours.vocab["!"]).all()
    assert tokens.trimmed().ids.shape == (3, int(ends.max()) + 1)
    assert ours.eos_id == len(ours) - 1 == max(ours.vocab.values())


def test_long_texts_are_cut_and_the_rest_is_told(ours: Tokenizer) -> None:
    text = "a red circle " * 30
    tokens = ours([text])
    assert tokens.ids.shape == (1, _L)
    assert tokens.ids[0, -1] == ours.eos_id
    rest = ours.dropped(text)
    assert text.strip().endswith(rest)
    kept = text[: text.rindex(rest)] if rest else text
    assert ours.dropped(kept) == ""
    assert torch.equal(ours([kept]).ids, tokens.ids)
    assert ours.dropped("a red circle") == ""
    assert ours([text]).ids.shape == (1, _L)  # asking changed nothing


def test_threads_do_not_see_each_other(ours: Tokenizer) -> None:
    long, wrong = "a red circle " * 40, []

    def encode() -> None:
        for _ in range(60):
            if ours([long, "a"]).ids.shape != (2, _L):
                wrong.append("length")

    def drop() -> None:
        for _ in range(60):
            if not ours.dropped(long):
                wrong.append("nothing dropped")

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work) for work in (encode, drop, encode)]:
            done.result()
    assert not wrong


def test_texts_are_strings(ours: Tokenizer) -> None:
    assert torch.equal(ours("a red circle").ids, ours(["a red circle"]).ids)
    assert torch.equal(ours([np.str_("a")]).ids, ours(["a"]).ids)
    assert ours([]).ids.shape == (0, _L)
    assert ours([]).trimmed().ids.shape == (0, 0)
    for wrong in (3, None, b"a", [3], [None], ["\ud800"], [("a", "b")], torch.tensor(1)):
        with pytest.raises(ValueError, match=r"string|not valid Unicode"):
            ours(wrong)  # type: ignore[arg-type]


def test_training_is_deterministic_and_learns_words(ours: Tokenizer) -> None:
    world = World()
    again = Tokenizer.train((world.scene(i).caption for i in range(400)), 640, _L)
    assert again.vocab == ours.vocab
    assert again.merges == ours.merges
    assert "circle</w>" in ours.vocab
    assert len(ours) == 640
    assert sorted(ours.vocab.values()) == list(range(640))


def test_training_needs_room_for_bytes_and_survives_odd_captions() -> None:
    with pytest.raises(ValueError, match="vocab_size is 513; it must be between 514 and"):
        Tokenizer.train(["a"], 513)
    odd = Tokenizer.train(["", "  ", "\0\1", "日本語 🙂", "x" * 5000], 600, 12)
    assert odd(["日本語 🙂"]).mask.sum() > 2
    assert 514 <= len(odd) <= 600


def test_a_word_without_end_takes_no_time_without_end() -> None:
    long = "ab" * 500_000  # ten minutes, if merges were learned from all of it
    learned = [Tokenizer.train([text], 600, 12).merges for text in (long, long[:10_000])]
    assert learned[0] == learned[1]


def damage(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "merges.txt").unlink(), "holds no tokenizer"),
        (damage("vocab.json", "{"), "vocab.json is not valid JSON"),
        (damage("vocab.json", "[1]"), "vocab.json must hold a JSON object"),
        (damage("vocab.json", '{"a": 0}'), "no token '<|startoftext|>'"),
        (
            damage("merges.txt", "#version: 0.2\na b c\n"),
            "'a b c' is among the merges; each must be two tokens",
        ),
        (damage("merges.txt", "#version: 0.2\nzq qz\n"), "do not fit together"),
        (damage("tokenizer_config.json", "nonsense"), "tokenizer_config.json is not valid JSON"),
    ],
)
def test_damaged_files_are_named(
    change: Callable[[Path], None], reason: str, ours: Tokenizer, tmp_path: Path
) -> None:
    ours.save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=reason.replace("|", r"\|")) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (3, "not a byte-pair encoding"),
        ({"vocab": 3, "merges": []}, "the vocabulary is 3; it must be an object"),
        ({"vocab": {"a": -1}, "merges": []}, "the id of the token 'a' is -1"),
        ({"vocab": {"a": 2**63}, "merges": []}, "the id of the token 'a' is 9223372036854775808"),
        ({"vocab": {"a": "b"}, "merges": []}, "the id of the token 'a' is 'b'"),
        ({"vocab": {"a": True}, "merges": []}, "the id of the token 'a' is True"),
        ({"vocab": {"a": 1}, "merges": 7}, "the merges are 7; they must be a list"),
        ({"vocab": {"a": 1}, "merges": [7]}, "7 is among the merges"),
        ({"vocab": {"a": 1}, "merges": [["a", 1]]}, "['a', 1] is among the merges"),
        ({"vocab": {"a": 1}, "merges": ["a" * 100_000]}, "is among the merges"),
    ],
)
def test_what_the_library_could_not_take_is_refused_first(
    model: object, says: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "length"), [(24, 24), (1e30, 77), (10**30, 77), ("x", None), (-1, None), ([], None)]
)
def test_lengths_that_others_note(
    value: object, length: int | None, ours: Tokenizer, tmp_path: Path
) -> None:
    ours.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    if length is None:
        with pytest.raises(ValueError, match="model_max_length is"):
            Tokenizer.from_pretrained(tmp_path)
    else:
        assert Tokenizer.from_pretrained(tmp_path).context_length == length


def test_tokenizer_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(ValueError, match="not a byte-pair encoding"):
        Tokenizer.from_pretrained(tmp_path)


def test_openai_folders_pad_with_the_end_token(ours: Tokenizer, tmp_path: Path) -> None:
    ours.save_pretrained(tmp_path)
    config = {"pad_token": {"content": EOS}, "model_max_length": 1e30}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    tokens = tokenizer(["a", unicodedata.normalize("NFD", "é")])
    assert tokens.ids.shape == (2, 77)
    assert (tokens.ids[~tokens.mask] == ours.eos_id).all()


KNOWN = ["a red circle on a blue background", "two green stars", "a crescent at night"] * 3
NEW = ["grinning squirrel", "a squirrel with sunglasses", "grinning cat with sunglasses"] * 4


def with_words(context_length: int = 32) -> Tokenizer:
    tokenizer = Tokenizer.train(KNOWN, 560, context_length)
    tokenizer.vocabulary = Vocabulary(vocabulary(KNOWN))
    return tokenizer


def test_anything_is_read_and_nothing_twice_alike() -> None:
    texts = ["größe", "猫と魚", "🐈 emoji", "0x7f", "naïve café"]
    ids = with_words()(texts).ids
    assert len({tuple(row.tolist()) for row in ids}) == len(texts)
    unknown = with_words().vocab["<|endoftext|>"]
    assert all((row == unknown).sum() == 1 for row in ids)  # the end, and no unknown token


def test_new_words_get_tokens_and_known_ones_keep_their_ids(tmp_path: Path) -> None:
    before = with_words()
    after, stands_for = before.extended(NEW, 200)
    assert len(after) == len(before) + len(stands_for) > len(before) + 10
    assert torch.equal(before(KNOWN).ids, after(KNOWN).ids)
    assert all(0 <= i < len(before) for ids in stands_for for i in ids)
    assert before("grinning squirrel").mask.sum() > 10
    assert after("grinning squirrel").mask.sum() == 4  # with start and end
    spelled = [i for i in before("squirrel").ids[0].tolist()[1:] if i != before.vocab["!"]][:-1]
    assert spelled in stands_for
    after.vocabulary = Vocabulary(vocabulary([*NEW, *KNOWN]))
    assert after.extended(NEW, 200)[1] == []  # a resumed run adds nothing
    after.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert torch.equal(again([*NEW, *KNOWN]).ids, after([*NEW, *KNOWN]).ids)


def test_no_more_tokens_than_asked_and_none_where_nothing_is_known() -> None:
    before = with_words()
    assert len(before.extended(NEW, 3)[1]) == 3
    before.vocabulary = None
    assert before.extended(NEW, 3) == (before, [])
