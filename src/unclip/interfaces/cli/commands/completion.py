"""`unclip completion`: a script that has the Tab key complete commands, stages and flags."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from unclip.interfaces.cli.options import parse

_SCRIPT = """\
# Completion of unclip, for {shell}: {how}
_unclip() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _unclip unclip
"""
_HOW = {
    "bash": "unclip completion bash > ~/.local/share/bash-completion/completions/unclip",
    "zsh": "unclip completion zsh > ~/.unclip-completion, and in ~/.zshrc: source that file",
}
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
_ROW = re.compile(r"^│ (-.*?)(?:  |│)", re.MULTILINE)  # names and value of a flag, in its column
_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w.-]*")


@dataclass(frozen=True)
class Completion:
    """Print a script that has the Tab key complete commands, stages and flags.

    It is made of the pages of help, which takes some seconds, and is written once: its first line
    says where to.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Shell that reads it."""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after `unclip completion` say, and give the exit code."""
    shell = parse(Completion, "completion", arguments).shell
    print(script(shell), end="")
    return 0


def script(shell: str) -> str:
    """What the shell is to read."""
    from unclip.interfaces.cli import COMMANDS

    cases = []
    for command in COMMANDS:
        seconds, own = parts(command), flags([command])
        for second in seconds:
            cases.append(_case(f'"{command} {second}"', [*flags([command, second]), *own]))
        cases.append(_case(f'"{command} "*', [*seconds, *own]))
    made = _SCRIPT.format(
        shell=shell, how=_HOW[shell], commands=" ".join(COMMANDS), cases="\n".join(cases)
    )
    return (_ZSH if shell == "zsh" else "") + made


def parts(command: str) -> list[str]:
    """What may stand after a command that has parts."""
    if command == "train":
        from unclip.interfaces.cli.commands.train import SPECS

        return ["all", *SPECS]
    if command == "evaluate":
        from unclip.interfaces.cli.commands.evaluate import EVALUATIONS

        return list(EVALUATIONS)
    if command == "data":
        from unclip.interfaces.cli.commands.data import LOOKS

        return list(LOOKS)
    if command == "borrow":
        from unclip.stages.catalogue import STAGES

        return list(STAGES)
    return list(_HOW) if command == "completion" else []


def flags(words: list[str]) -> list[str]:
    """The flags on a page of help, in its order."""
    from unclip.interfaces.cli import main

    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        main([*words, "--help"])
    rows = _ROW.findall(page.getvalue())
    return list(dict.fromkeys(flag for row in rows for flag in _FLAG.findall(row)))


def _case(pattern: str, words: Sequence[str]) -> str:
    return f'            {pattern}) words="{" ".join(dict.fromkeys(words))}" ;;'
