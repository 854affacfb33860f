"""Tables of captions, as the programs of the world write them."""

from pathlib import Path

import pytest

from unclip.data.tables import read_table

GOOD = {
    "captions.csv": (
        'file,caption\na.png,"red, and ""new"""\n',
        'file,caption\r\na.png,"red, and ""new"""\r\n',
        'file,caption\ra.png,"red, and ""new"""\r',
        'File, Caption ,,\n,,\n\na.png,"red, and ""new""",,\n',
        '\ufefffile;caption\na.png;"red, and ""new"""\n',
        'file\tcaption\tid\na.png\t"red, and ""new"""\t7\n',
        'file,caption\na.png,"red, and ""new"""\n'.encode("utf-16"),
        b"\xfe\xff" + 'file,caption\na.png,"red, and ""new"""\n'.encode("utf-16-be"),
    ),
    "metadata.jsonl": (
        '{"file_name": "a.png", "text": "red, and \\"new\\""}\n\n',
        '{"file_name": "a.png", "text": ["red, and \\"new\\""], "id": ' + "9" * 5000 + "}",
        '\ufeff{"file": "a.png", "caption": "red, and \\"new\\"", "score": NaN}\r\n',
        '{"file": "a.png", "caption": "red, and \\"new\\""}'.encode("utf-16"),
    ),
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, several in GOOD.items() for content in several]
)
def test_every_way_to_write_the_same_row(tmp_path: Path, name: str, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).write_bytes(raw)
    ((path, row),) = read_table(tmp_path, f"deep/{name}")
    assert (path, row.captions, row.lines) == ("deep/a.png", ['red, and "new"'], 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('file,caption\na.png,x\nb.png,"a red star\nc.png,y\n', "line 3 is not CSV"),
        ('file,caption\na.png,"a red star\nb.png,"blue"\n', "line 2 is not CSV"),
        ('file\tcaption\na.png\t"hi" she said\n', r"line 2 is not CSV .'\\t' expected"),
        ('"file,caption\na.png,x\n', "line 1 is not CSV"),
        ('file,caption\na.png,"' + "x\n" * 70_000, "line 2 is not CSV .field larger"),
        ("file,caption\na.png," + "x" * 2**20, "line 2 has more than 1,048,576 bytes"),
        ("file,caption,caption\na.png,x,y\n", "line 1 names the column 'caption' twice"),
        ("file,caption\na\0.png,x\n", r"line 2: 'a\\x00.png' is not a path inside"),
        ("file,caption\n\x1b[2J/../../x,x\n", r"line 2: '\\x1b\[2J/../../x' is not a path"),
        ("file,caption\n/" + "n" * 10**5, r"line 2: '/n+…n+' .100,003 characters. is not a path"),
        ("file,caption\na.png,é\n".encode("cp1252"), "line 2 is not UTF-8 text .byte 0xe9"),
        ("file,caption\na.png,é\n".encode("utf-16")[:-1], "is not UTF-16-LE text"),
        ("file,caption\na.png,x\n".encode("utf-16-le"), "names no file"),
    ],
)
def test_csv_that_is_none_is_one_sentence(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "captions.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=reason) as caught:
        list(read_table(tmp_path, "captions.csv"))
    said = str(caught.value).removeprefix(str(tmp_path))
    assert said.startswith("/captions.csv, line ")
    assert said.isprintable()
    assert len(said) < 250


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": NaN, "text": "x"}', "line 2 names no file"),
        ('{"file_name": ' + "9" * 5000 + ', "text": "x"}', "line 2 names no file"),
        ('{"file_name": "a.png", "text": NaN}', "line 2: text is neither a text nor"),
        ('{"file_name": "a.png", "text": ["x", ["y"]]}', "line 2: text is neither a text nor"),
        ('{"a":' * 5000, "line 2 is not JSON"),
        ('{"file_name": "a.png", "text": "' + "x" * 2**20, "line 2 has more than 1,048,576 bytes"),
    ],
)
def test_lines_that_are_no_rows(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "x"}\n' + line)
    rows = read_table(tmp_path, "metadata.jsonl")
    next(rows)
    with pytest.raises(ValueError, match=reason) as caught:
        next(rows)
    assert len(str(caught.value)) < 400


def test_a_table_is_read_a_line_at_a_time(tmp_path: Path) -> None:
    """So that a line of gigabytes is refused before it is in memory."""
    with (tmp_path / "metadata.jsonl").open("wb") as file:
        file.truncate(2**36)  # 64 GB of zeros, on no disk
    with pytest.raises(ValueError, match="line 1 has more than"):
        list(read_table(tmp_path, "metadata.jsonl"))


def test_captions_of_several_lines_are_known(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text('file,caption\na.png,"two\nlines"\nb.png,one\n')
    rows = [row for _, row in read_table(tmp_path, "captions.csv")]
    assert [(row.line, row.lines) for row in rows] == [(2, 2), (4, 1)]
