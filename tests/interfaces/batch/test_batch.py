"""`unclip batch`: nothing is missing, nothing is double, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unclip import Pipeline
from unclip.data.registry import open_source
from unclip.files import read_safetensors, write_safetensors
from unclip.interfaces.batch import job as jobs
from unclip.interfaces.batch.prompts import read_prompts
from unclip.interfaces.cli import main
from unclip.outputs.images import read_info
from unclip.storage.folder import ModelFolder
from unclip.words import write_words

PROMPTS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "cat")]
FAST = ["--prior-steps", "1", "--decoder-steps", "1", "--super-res-steps", "1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven prompts, of which the last says its seed."""
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [{"prompt": text} for text in PROMPTS]
    rows.append({"prompt": "a green dog", "seed": 77, "id": 2**60 + 1})
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def words(model: Path, out: str, *more: str, table: str = "prompts.jsonl") -> list[str]:
    flags = ["--model", str(model), "--precision", "fp32", "--prompts-per-shard", "2", *FAST]
    return ["batch", table, "-o", out, *flags, *more]


def files(folder: str) -> dict[str, bytes]:
    """All files of a job by their names."""
    return {p.name: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_two_workers_write_what_one_does(tiny_model: Path, folder: Path) -> None:
    assert main(words(tiny_model, "one")) == 0
    for worker in ("1/2", "0/2"):
        assert main(words(tiny_model, "two", "--worker", worker)) == 0
    assert files("one") == files("two")
    assert sorted(files("one")) == ["job.json", *(f"shard-00000{k}.tar" for k in range(4))]
    before = {path: path.stat().st_mtime_ns for path in Path("one").iterdir()}
    assert main(words(tiny_model, "one")) == 0
    assert before == {path: path.stat().st_mtime_ns for path in Path("one").iterdir()}


def test_a_shard_that_was_cut_off_is_made_anew(tiny_model: Path, folder: Path) -> None:
    assert main(words(tiny_model, "one")) == 0
    whole = files("one")
    damaged = Path("one/shard-000001.tar")
    damaged.write_bytes(whole[damaged.name][:3000])
    assert main(words(tiny_model, "one")) == 0
    assert files("one") == whole


def test_a_shard_that_another_process_is_at_is_left_to_it(
    tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_model, "out")) == 0
    Path("out/shard-000001.tar").unlink()
    program = (
        "import fcntl, sys; file = open('out/job.json', 'r+b'); "
        "fcntl.lockf(file, fcntl.LOCK_EX, 1, 1); print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(words(tiny_model, "out")) == 0
        assert "0 shards written" in (said := capsys.readouterr().out)
        assert "1 left to other processes" in said
        assert not Path("out/shard-000001.tar").exists()
        other.kill()
    assert main(words(tiny_model, "out")) == 0
    assert Path("out/shard-000001.tar").exists()


def test_images_are_those_of_their_seeds_and_a_training_source(
    tiny_model: Path, folder: Path
) -> None:
    assert main(words(tiny_model, "out", "--seed", "5")) == 0
    pipe = Pipeline.from_pretrained(tiny_model, dtype="fp32", device="cpu")
    steps = {"prior_num_inference_steps": 1, "decoder_num_inference_steps": 1}
    steps["super_res_num_inference_steps"] = 1
    for shard, name, prompt, seed in (
        (1, "00000003", PROMPTS[3], 8),
        (3, "00000006", "a green dog", 77),
    ):
        with tarfile.open(f"out/shard-00000{shard}.tar") as archive:
            data = {
                end: archive.extractfile(f"{name}.{end}").read() for end in ("png", "txt", "json")
            }  # type: ignore[union-attr]
        Path("one.png").write_bytes(data["png"])
        notes = json.loads(data["json"])
        assert data["txt"].decode() == f"{prompt}\n"
        assert read_info("one.png")["seed"] == notes["seed"] == seed
        assert notes["caption"] == prompt
        expected = pipe(prompt, seed=seed, **steps).images[0]
        assert (np.asarray(Image.open(BytesIO(data["png"]))) == np.asarray(expected)).all()
    assert notes["id"] == str(2**60 + 1)
    source = open_source("wds:out", size=32, split="all")
    assert len(source) == 7  # type: ignore[arg-type]
    assert sorted(source.captions()) == sorted([*PROMPTS, "a green dog"])


def test_words_that_the_model_does_not_know_are_said_of_all_prompts_at_once(
    tiny_copy: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_copy / "tokenizer" / "words.txt").unlink()
    assert main(words(tiny_copy, "silent")) == 0
    assert "unknown" not in capsys.readouterr().err
    write_words(tiny_copy / "tokenizer", ["red", "blue", "green", "star", "ring"])
    assert main(words(tiny_copy, "said")) == 0
    said = capsys.readouterr().err
    assert "3 of 7 prompts have unknown words: 'cat', 'dog' mean nothing to this model" in said


def test_several_images_of_a_prompt_count_on(tiny_model: Path, folder: Path) -> None:
    assert main(words(tiny_model, "out", "-n", "2")) == 0
    with tarfile.open("out/shard-000001.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith("json")]
        read = archive.extractfile
        seeds = [json.loads(read(name).read())["seed"] for name in names]  # type: ignore[union-attr]
    assert names == [f"0000000{row}-{k}.json" for row in (2, 3) for k in (0, 1)]
    assert seeds == [4, 5, 6, 7]


def test_what_fails_is_listed_and_tried_again(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(words(tiny_model, "right")) == 0
    call = Pipeline.__call__

    def fails(self: Pipeline, prompt: Any, *rest: Any, **more: Any) -> Any:
        if PROMPTS[3] in prompt:
            raise RuntimeError("the machine is tired")
        return call(self, prompt, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "__call__", fails)
        assert main(words(tiny_model, "out", "--batch-size", "4")) == 3
    assert "out/failed lists them" in capsys.readouterr().err
    listed = Path("out/failed/shard-000001.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in listed] == [
        {"row": 3, "prompt": PROMPTS[3], "why": "the machine is tired"}
    ]
    assert main(words(tiny_model, "out")) == 0
    assert not list(Path("out/failed").iterdir())
    one, other = files("right"), files("out")
    with tarfile.open("out/shard-000001.tar") as archive:
        assert len(archive.getnames()) == 6
    assert set(one) == set(other)
    assert one["shard-000001.tar"] == other["shard-000001.tar"]


def test_rows_that_cannot_be_drawn_do_not_end_the_job(
    tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a star"}, {"prompt": " "}, {"prompt": 7}, {"seed": 1}]
    rows += [{"prompt": "a ring", "seed": 1.5}, {"text": "a cat", "seed": "12"}]
    Path("odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(words(tiny_model, "out", table="odd.jsonl")) == 3
    said = capsys.readouterr()
    assert "4 of 6 prompts came to nothing (line 2: " in said.err
    assert "the job: 0 of 3 shards complete" in said.out
    why = [
        json.loads(line)["why"]
        for file in sorted(Path("out/failed").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert [text.split(":")[0] for text in why] == ["line 2", "line 3", "line 4", "line 5"]
    assert "shard-000001.tar" not in files("out")  # none of its rows came to anything
    assert len(open_source("wds:out", size=32, split="all")) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("moment", ["before the list", "before the tar", "after the tar"])
@pytest.mark.parametrize("bad", [False, True])
def test_a_shard_is_whole_or_known_to_lack_rows(
    moment: str, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.Job("x", 4, 1, 0, 4, "x", "fp32", "x")
    samples = [jobs.Sample(row, 0, b"png", "a star", {}) for row in range(3 if bad else 4)]
    failed = [{"row": 3, "prompt": "", "why": "x"}] if bad else []

    class KilledError(BaseException):
        pass

    def killed(*rest: Any, **more: Any) -> None:
        raise KilledError

    name = {"before the list": "_list", "before the tar": "whole", "after the tar": ""}[moment]
    calls = []
    if moment == "after the tar":  # where the list is written for the second time, or removed
        original: Callable[..., None] = jobs._list
        monkeypatch.setattr(
            jobs, "_list", lambda *a: killed() if calls else (calls.append(1), original(*a))
        )
        monkeypatch.setattr(Path, "unlink", killed)
    else:
        monkeypatch.setattr(jobs, name, killed)
    if bad or moment != "before the list":
        with pytest.raises(KilledError):
            jobs.write_shard(tmp_path, 0, job, samples, failed)
    monkeypatch.undo()
    if jobs.is_whole(tmp_path, 0):
        assert len(jobs.read_shard(tmp_path, 0)) == 4


def test_killed_twice_in_two_processes(tiny_model: Path, folder: Path) -> None:
    """Forks, as in tests/kill, which need not import torch again."""

    def begun(k: int) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            code = main(words(tiny_model, "out", "--worker", f"{k}/2"))
        finally:
            os._exit(code)

    def shards() -> int:
        return len(list(Path("out").glob("shard-*.tar")))

    for least in (1, 2):
        workers = [begun(0), begun(1)]
        until = time.monotonic() + 120
        while shards() < least and time.monotonic() < until:
            time.sleep(0.01)
        for child in workers:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    ended = [os.waitpid(child, 0)[1] for child in (begun(0), begun(1))]
    assert ended == [0, 0]
    assert main(words(tiny_model, "right")) == 0
    assert files("out") == files("right")


@pytest.mark.parametrize("part", ["prior", "super_res_first", "text_encoder", "decoder_scheduler"])
def test_a_model_that_changed_in_any_part_is_another_one(part: str, tiny_copy: Path) -> None:
    before = jobs.state_of(ModelFolder(tiny_copy))
    found = list((tiny_copy / part).glob("*.safetensors"))
    for file in found:
        write_safetensors(file, {k: v + 1 for k, v in read_safetensors(file).items()})
    if not found:
        [config] = (tiny_copy / part).glob("*.json")
        config.write_text(config.read_text().replace("1000", "999"))
    assert jobs.state_of(ModelFolder(tiny_copy)) != before


def test_a_model_that_is_tuned_or_halved_is_another_one_and_notes_are_not(
    tiny_copy: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_copy, "out")) == 0
    index = json.loads((tiny_copy / "model_index.json").read_text())
    (tiny_copy / "model_index.json").write_text(json.dumps({**index, "_held_out": {}}))
    assert main(words(tiny_copy, "out")) == 0
    tuned = {**index, "_defaults": {"decoder_guidance_scale": 2.5}}
    (tiny_copy / "model_index.json").write_text(json.dumps(tuned))
    before = files("out")
    assert main(words(tiny_copy, "out")) == 2
    assert "of another model, or of a state of it" in capsys.readouterr().err
    assert files("out") == before
    (tiny_copy / "model_index.json").write_text(json.dumps(index))
    assert main(words(tiny_copy, "out")) == 0
    [file] = (tiny_copy / "decoder").glob("*.safetensors")
    write_safetensors(file, {k: v.bfloat16() for k, v in read_safetensors(file).items()})
    assert main(words(tiny_copy, "out")) == 2


def test_other_prompts_are_refused_and_more_of_them_too(
    tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_model, "out")) == 0
    with Path("prompts.jsonl").open("a") as table:
        table.write('{"prompt": "one more"}\n')
    before = files("out")
    assert main(words(tiny_model, "out")) == 2
    assert "of other prompts" in capsys.readouterr().err
    assert files("out") == before


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"text": ["a star", "a ring"], "seed": [4, 5], "id": ["1", "2"], "more": ["x", "y"]}
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    lines = ["text,seed,id,more", "a star,4,1,x", "a ring,5,2,y"]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    one, other = (list(read_prompts(tmp_path / f"p.{end}")) for end in ("parquet", "csv"))
    assert one == other
    assert [(row.prompt, row.seed, row.id) for row in one] == [
        ("a star", 4, "1"),
        ("a ring", 5, "2"),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--worker", "2/2"], "K/N"),
        (["--worker", "first"], "K/N"),
        (["-n", "0"], "-n"),
        (["--prompts-per-shard", "3"], "shards of another size"),
        (["--seed", "1"], "with another seed"),
        (["--decoder-steps", "2"], "with other settings"),
        (["--no-watermark"], "otherwise marked"),
    ],
)
def test_bad_requests_and_other_jobs_are_refused(
    change: list[str], said: str, tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "a star"}\n')
    if "another" in said or "other" in said:
        assert main(words(tiny_model, "out")) == 0
    before = files("out")
    assert main(words(tiny_model, "out", *change)) == 2
    assert said in capsys.readouterr().err
    assert files("out") == before


@pytest.mark.parametrize(
    ("table", "text", "said"),
    [
        ("none.jsonl", None, "none.jsonl"),
        ("empty.jsonl", "", "no prompts"),
        ("broken.jsonl", "{", "line 1 is not JSON"),
        ("prompts.txt", "a star", "no table"),
    ],
)
def test_bad_tables_are_refused(
    table: str, text: str | None, said: str, folder: Path, tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if text is not None:
        Path(table).write_text(text)
    assert main(words(tiny_model, "out", table=table)) == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(
    tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_model, ".")) == 2
    assert "its own folder" in capsys.readouterr().err
    assert sorted(files(".")) == ["prompts.jsonl"]
