"""Brace expansion: what stands for many names, and what is no such expression."""

import pytest

from unclip.data.braces import expand


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("plain.tar", ["plain.tar"]),
        ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
        ("s/{8..11}", ["s/8", "s/9", "s/10", "s/11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}.tar", ["2.tar", "1.tar", "0.tar"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("{a,}b", ["ab", "b"]),
    ],
)
def test_as_shells_do_it(pattern: str, names: list[str]) -> None:
    assert expand(pattern) == names


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{000..099.tar", "never closed"),
        ("000..099}.tar", "never opened"),
        ("{a,{b,c}}", "braces within braces"),
        ("{000..}.tar", "neither a range"),
        ("{}", "neither a range"),
        ("{a..c}", "neither a range"),
        ("{0..9999999}", "more than 1,000,000"),
        ("{0..9999}{0..9999}", "more than 1,000,000"),
        ("{0..999999999999999999}", "more than 1,000,000"),
    ],
)
def test_wrong_expressions_are_one_sentence(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        expand(pattern)
