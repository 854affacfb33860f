"""Hostile values, and ways to spoil documents, bytes and files; all decided by `random`."""

import copy
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

_DEEP, _LONG = 10_000, 100_000
_NUMBERS = (
    *("0", "1", "-1", "2", "7", "0.5", "1.5", "3.0", "1e-400", "1e308"),
    *(str(n) for n in (2**20, 10**9, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1)),
    *("1" + "0" * 400, "9" * 5000, "-0", "-0.0"),
)
_TEXTS = (
    *('""', '" "', '"x"', '"3"', '"None"', f'"{"x" * _LONG}"', r'"\u001b[2J\u0007"', r'"\u202e"'),
    *(r'"a\nb"', r'"\u0000"', '"../../x"', '"/dev/zero"', '"%s {0}"', '"日本"', '"a\u0301"'),
)
_LISTS = ("[]", "[1]", "[-1]", "[[1]]", '["x"]', "[1, 2]", f"[{'7, ' * _LONG}7]")
JSON = (
    *_NUMBERS, *_TEXTS, *_LISTS, "null", "true", "false", "NaN", "Infinity", "-Infinity", "1e309",
    r'"\ud800"', "[null]", "{}", '{"a": 1}', "[" * _DEEP + "]" * _DEEP,
    '{"a":' * _DEEP + "1" + "}" * _DEEP, "1 2", "", "01", "'x'",
)  # fmt: skip
TOML = (
    *_NUMBERS, *_TEXTS, *_LISTS, "true", "false", "nan", "inf", "-inf", "1e400", "0x10", "1_000",
    "{}", "{a = 1}", "[" * _DEEP + "]" * _DEEP, "{a=" * 5000 + "1" + "}" * 5000, "1979-05-27",
    "07:32:00", "", "'x'", "null", "[{}]",
)  # fmt: skip
WORDS = (
    *("", " ", "0", "1", "-1", "2", "1.5", "nan", "inf", "-inf", "1e309", "1e-320", str(2**63)),
    *("1" + "0" * 400, "9" * 5000, "None", "null", "True", "x", "x" * 5000, "\x1b[31mred\x07"),
    *("\u202e", "é", "日本", "\udcff", "a\nb", "--", "-", "{}", "[1]", "1,2", "0x10", "1_0", "²"),
    *("١٢", "../x", "/dev/zero", "/dev/full", "fifo", "loop", "folder", "missing.png", "a" * 300),
    *("x.png", "x.png/", ".png", "https://example.com/x", "owner/model", "a/b/c", "emoji:x"),
    *("cuda:99", "cpu:3", "meta", "xla", "int8", "%s", "{0}", "x=1", "@x", "..", "\x7f", "a\tb"),
)
_NAMES = (
    "",
    "x",
    "\x1b[31m",
    "a\nb",
    "x" * 5000,
    "__class__",
    "\ud800",
    "../x",
    "self",
    "日本",
    ".",
)


def document(
    random: Random, good: Any, literals: Sequence[str], dump: Callable[[Any], str]
) -> tuple[str, str]:
    """A document with one or two spots spoiled, and what was done to it.

    Args:
        literals: what spots are replaced by, in the language of `dump`.
        dump: writes strings as JSON does.
    """
    spoilt, said, raws = copy.deepcopy(good), [], []
    for _ in range(random.choice((1, 1, 1, 2))):
        if not spoilt:
            break
        holder, key, trail = _spot(random, spoilt)
        what = random.choice(("value",) * 8 + ("delete", "rename", "add", "twice"))
        if isinstance(holder, list) and what != "delete":
            what = "value"
        if what == "delete":
            del holder[key]
        elif what == "rename":
            holder[random.choice(_NAMES)] = holder.pop(key)
        else:
            raw = random.choice(literals)
            if random.random() < 0.4 and "\0RAW" not in str(holder[key]):
                raw = json.dumps(random.choice(_near(holder[key])))
            name = key if what == "value" else random.choice(_NAMES)
            if what == "twice":
                name, again = key, json.dumps(key)
                raw = f"{raw}\n{again} = {raw}" if literals is TOML else f"{raw}, {again}: {raw}"
            holder[name] = f"\0RAW{len(raws)}\0"
            raws.append(raw)
            what += f" {raw[:40]!r}{'…' * (len(raw) > 40)}"
        said.append(f"{trail}: {what}")
    text = dump(spoilt)
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\u0000RAW{number}\\u0000"', raw)
    return text, "; ".join(said)


def _near(good: Any) -> list[Any]:
    """Values of a good one's kind, so that they get further."""
    if isinstance(good, bool):
        return [not good, int(good)]
    if isinstance(good, int):
        return [
            good + 1,
            good - 1,
            good * 2,
            good * 3,
            good // 2,
            good * 1000,
            -good,
            good + 0.5,
            0,
        ]
    if isinstance(good, float):
        return [-good, good * 1e6, good * 1e-9, good + 1, 1.0, 0.0, 1, 0]
    if isinstance(good, str):
        return [good.upper(), f"{good} ", f"{good}{good}", good[:-1], [good], ""]
    if isinstance(good, list):
        return [good * 2, good[::-1], good[:1], good[1:], [good], [*good, *good[-1:]] * 3]
    return [{}, [good], None]


def _spot(random: Random, root: Any) -> tuple[Any, Any, str]:
    """A container below `root`, one of its keys, and how one gets there."""
    trail, here = "", root
    while True:
        key = random.choice(list(here) if isinstance(here, dict) else range(len(here)))
        trail += f"/{str(key)[:30]}"
        below = here[key]
        if not isinstance(below, dict | list) or not below or random.random() < 0.15:
            return here, key, trail
        here = below


def spoil_json(random: Random, path: Path) -> str:
    """Spoil a JSON file in place: mostly one of its values."""
    if random.random() < 0.15:
        return spoil_bytes(random, path)
    good = json.loads(path.read_text())
    text, said = document(random, good, JSON, json.dumps)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return said


def spoil_bytes(random: Random, path: Path) -> str:
    """Spoil a file's bytes in place."""
    raw = bytearray(path.read_bytes())
    what = random.choice(("cut", "flip", "flips", "zeros", "more", "twice", "insert", "bom"))
    at = random.randrange(max(1, min(len(raw), random.choice((16, 200, len(raw))))))
    if what == "cut":
        del raw[at:]
    elif what in ("flip", "flips"):
        for _ in range(1 if what == "flip" else 30):
            raw[random.randrange(max(1, at + 1))] ^= 1 << random.randrange(8)
    elif what == "zeros":
        raw[at : at + 64] = bytes(64)
    elif what == "more":
        raw += random.randbytes(random.choice((1, 100_000)))
    elif what == "twice":
        raw += bytes(raw)
    elif what == "insert":
        raw[at:at] = random.randbytes(random.choice((1, 8, 1000)))
    else:
        encoding = random.choice(("utf-16", "utf-8-sig", "utf-32"))
        raw = bytearray(raw.decode("latin-1").encode(encoding))
    path.write_bytes(raw)
    return f"bytes: {what} at {at}"


def replace(random: Random, path: Path) -> str:
    """Put something that is no file of its kind in a path's place."""
    path.unlink(missing_ok=True)
    what = random.choice(
        (
            "folder",
            "fifo",
            "loop",
            "zero",
            "dangling",
            "empty",
            "huge",
            "socket",
            "missing",
            "noise",
        )
    )
    links = {"loop": path.name, "zero": "/dev/zero", "dangling": "nowhere"}
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what in links:
        path.symlink_to(links[what])
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(9 * 2**29)  # a hole: it takes no room
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = Path.cwd()
            os.chdir(path.parent)  # addresses are short
            one.bind(path.name[-90:])
            os.chdir(here)
    elif what != "missing":
        path.write_bytes(random.randbytes(1000) if what == "noise" else b"")
    return f"a {what} file" if what in ("empty", "huge", "missing") else f"{what} in its place"


def spoil_safetensors(random: Random, path: Path) -> str:
    """Spoil a safetensors file in place: its header, its bytes, or a tensor with a true header."""
    way = random.random()
    if way < 0.2:
        return spoil_bytes(random, path)
    if way < 0.5:
        return _spoil_tensor(random, path)
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    text, said = document(random, json.loads(raw[8:end]), JSON, json.dumps)
    head = text.encode("utf-8", "surrogatepass")
    length = len(head) if random.random() < 0.9 else random.choice((0, 1, 2**40, 2**64 - 1))
    path.write_bytes(length.to_bytes(8, "little") + head + raw[end:])
    return f"header {said}"


def _spoil_tensor(random: Random, path: Path) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    from unclip.files import read_facts

    tensors, facts = load_file(path), read_facts(path)
    name = random.choice(sorted(tensors))
    one = tensors[name]
    dtypes = (torch.float64, torch.int64, torch.bool, torch.float8_e4m3fn, torch.bfloat16)
    what, spoilt = random.choice(
        (
            ("NaN", torch.full_like(one.float(), torch.nan)),
            ("infinite", torch.full_like(one.float(), torch.inf)),
            ("1e38", torch.full_like(one.float(), 1e38)),
            ("zeros", torch.zeros_like(one)),
            ("empty", one[:0] if one.ndim else one.reshape(1)[:0]),
            ("another axis", one[None]),
            ("a row less", one[1:] if one.ndim else one),
            ("flat", one.flatten()),
            *((str(dtype), one.to(dtype)) for dtype in dtypes),
        )
    )
    tensors[name] = spoilt.contiguous()
    save_file(tensors, path, facts)
    return f"{name}: {what}"
