"""`unclip completion`, read by a shell."""

import shutil
import subprocess

import pytest

from tests.interfaces.cli.test_cli import Capture, refused
from unclip.interfaces import cli
from unclip.interfaces.cli.commands.completion import flags, parts, script

FEW = ("generate", "borrow", "data", "completion")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some commands, whose help is there at once."""
    monkeypatch.setattr(cli, "COMMANDS", {name: cli.COMMANDS[name] for name in FEW})


@pytest.mark.usefixtures("few")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["unclip", "gen"], ["generate"]),
        (["unclip", ""], [*FEW]),
        (["unclip", "borrow", "upsampler-"], ["upsampler-1024"]),
        (["unclip", "borrow", "prior", "--mod"], ["--model"]),
        (["unclip", "data", "emoji", "--prev"], ["--preview"]),
        (["unclip", "generate", "a star", "--prior-c"], ["--prior-candidates"]),
        (["unclip", "completion", "z"], ["zsh"]),
        (["unclip", "nothing", "x"], []),
    ],
)
def test_bash_completes(words: list[str], offered: list[str]) -> None:
    asked = " ".join(f"'{word}'" for word in words)
    said = subprocess.run(
        ["bash", "-c", f"{script('bash')}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}\n"
         '_unclip; printf "%s\n" "${COMPREPLY[@]}"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == offered
    assert said.stderr == ""


def test_only_flags_of_a_command_are_offered() -> None:
    assert parts("train")[:2] == ["all", "clip"]
    assert {"--template", "--dry-run", "--no-tune"} <= set(flags(["train", "all"]))
    assert flags(["borrow"]) == ["-h", "--help", "--model", "--from", "--overwrite"]
    offered = flags(["train", "prior"])
    assert {"--dry-run", "--network.num-attention-heads", "--training.init"} <= set(offered)
    assert not [flag for flag in offered if flag.endswith((".", "-"))]


@pytest.mark.usefixtures("few")
def test_zsh_reads_the_same_by_its_own_means() -> None:
    assert script("zsh").startswith("autoload -U +X compinit")
    assert script("zsh").endswith("complete -o default -F _unclip unclip\n")


def test_other_shells(capsys: Capture) -> None:
    assert "fish" in refused(["completion", "fish"], capsys)
