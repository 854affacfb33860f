"""`import unclip` and its help must be instant: what is heavy is imported where it is used.

The imported modules are looked at, not the clock, which depends on the machine.
"""

import subprocess
import sys

import pytest

HEAVY = {
    "PIL", "diffusers", "emoji", "huggingface_hub", "numpy", "safetensors", "tensorboard",
    "tokenizers", "torch", "tqdm", "transformers",
}  # fmt: skip
ALL = HEAVY | {"tyro", "rich"}


def imported_by(program: str) -> set[str]:
    code = f"{program}\nimport sys\nprint('\\n' + ' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_import_is_light() -> None:
    assert not imported_by("import unclip; unclip.__version__; dir(unclip)") & ALL


def test_help_is_light() -> None:
    assert not imported_by("from unclip.interfaces.cli import main; main(['--help'])") & ALL


@pytest.mark.parametrize("command", ["generate", "info", "data", "doctor", "edit", "embed"])
def test_help_of_commands_is_light(command: str) -> None:
    program = f"from unclip.interfaces.cli import main; main(['{command}', '--help'])"
    assert not imported_by(program) & HEAVY
