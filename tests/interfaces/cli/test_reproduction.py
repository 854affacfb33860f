"""The command that makes an image again, from its notes."""

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.interfaces.cli.reproduction import command_for

INFO: dict[str, Any] = {
    "prompt": "a red circle above a blue square",
    "seed": 7,
    "model": "models/my unclip",
    "settings": {"prior_num_inference_steps": 25, "decoder_guidance_scale": 3.5, "size": 64},
    "version": "0.1.0",
}


def test_command_reproduces_the_settings() -> None:
    assert command_for(INFO) == (
        "unclip generate 'a red circle above a blue square' --seed 7 --model 'models/my unclip' "
        "--prior-steps 25 --guidance 3.5 --size 64"
    )
    settings_ = {
        "steps": "fast",
        "decoder_num_inference_steps": 50,
        "super_res_num_inference_steps": 7,
        "prior_guidance_scale": 4.0,
        "sampler": "ddim",
        "guidance_interval": [0.1, 0.9],
        "compile": True,
        "best_of_two": False,
        "negative": None,
    }
    assert command_for({"prompt": "x", "settings": settings_}) == (
        "unclip generate x --steps fast --decoder-steps 50 --super-res-steps 7 "
        "--prior-guidance 4.0 --sampler ddim --guidance-interval 0.1 0.9 --compile --no-best-of-two"
    )
    assert command_for({"prompt": "-n 5", "seed": 0}) == "unclip generate --seed 0 -- '-n 5'"


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_simple_prompts_are_quoted_like_a_shell_reads_them(prompt: str) -> None:
    command = command_for({"prompt": prompt})
    assert command.isprintable()
    if prompt.isprintable():
        assert shlex.split(command)[-1] == prompt


def test_a_shell_reads_the_prompt_back() -> None:
    prompts = [
        "line\nline\ttab \x1b[31mred\x07 'quote' \\ \"double\" $HOME `id` !x",
        "right\u202eto left, zero\u200bwidth, nbsp\u00a0, 赤い",
        "digits after \x011 and \u00a07",
        "-dash\n",
        "; rm -rf / #",
    ]
    for prompt in prompts:
        command = command_for({"prompt": prompt, "seed": 1})
        assert command.isprintable()
        script = f"unclip() {{ printf '%s\\0' \"$@\"; }}; {command}"
        out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
        words = out.decode().split("\0")[:-1]
        assert sorted(words) == sorted(
            ["generate", *(["--"] if prompt[0] == "-" else []), prompt, "--seed", "1"]
        )


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"prompt": 3},
        {"prompt": "x", "settings": [1]},
        {"prompt": "x", "settings": {"output": "/home/me/.bashrc"}},
        {"prompt": "x", "settings": {"x; rm -rf /": 1}},
        {"prompt": "x", "settings": {"": 1}},
        {"prompt": "x", "settings": {"-x": 1}},
        {"prompt": "x", "settings": {"size": {"a": 1}}},
        {"prompt": "x", "seed": [[1]]},
    ],
)
def test_hostile_notes_give_no_command(info: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the image's notes"):
        command_for(info)
