"""Models by their name on the Hugging Face Hub: fetched once, into the Hub's own cache.

Only a name that begins with `hf:` is one on the Hub, as in "hf:owner/model": a path with a slip in
it never asks the network. `huggingface_hub` does the work and has the settings: HF_HOME says where
the cache is, HF_HUB_OFFLINE=1 forbids the network, HF_TOKEN or `hf auth login` opens gated models.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.checks import of_kind, shown, true_or_false
from unclip.files import as_path
from unclip.storage.folder import bundled
from unclip.storage.weights import variants

BUNDLED = "bundled"
"""The name of the model that comes with the package."""
PREFIX = "hf:"
"""What names on the Hub begin with."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_WORD = re.compile(r"[\w./-]{1,200}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_CARD = ("README.md", "LICENSE*")


@dataclass(frozen=True)
class Access:
    """How the Hub is asked.

    Args:
        fetch: whether the network may be used; else only the cache.
        cache_dir: the cache; left out, the Hub's own.
        token: of its user; left out, that of HF_TOKEN or `hf auth login`. False sends none.

    Raises:
        ValueError: a value of another kind.
    """

    fetch: bool = True
    cache_dir: str | Path | None = None
    token: str | bool | None = None

    def __post_init__(self) -> None:
        true_or_false(self.fetch, "local_files_only")
        if self.cache_dir is not None:
            as_path(self.cache_dir, "cache_dir")
        of_kind(self.token, str | bool | None, "token", "a string")  # type: ignore[arg-type]


def resolve_model(
    name: str | Path,
    revision: str | None,
    variant: str | None,
    components: Iterable[str],
    access: Access = Access(),
) -> Path:
    """A model folder's path: `name` itself, or for "hf:owner/model" that of the Hub's model.

    Args:
        name: a path, "hf:owner/model", or "bundled" for the model that comes with the package.
        revision: branch, tag or commit on the Hub.
        variant: whose weights are fetched; components without it give their plain ones.
        components: the folders that are of use; nothing else is fetched, and never a pickle.
        access: how the Hub is asked.

    Raises:
        ValueError: there is neither such a folder nor such a model, or the Hub is out of reach.
    """
    _check(name, revision, variant)
    wanted = hub_name(name)
    if wanted is None:
        return _at(bundled("model") if is_bundled(name) else _here(name), revision)
    names = list(components)
    path = _snapshot(wanted, revision, _patterns(names, variant), access)
    if variant:
        plain = [component for component in names if variant not in variants(path / component)]
        path = _snapshot(wanted, revision, _patterns(plain, None), access)
    return path


def resolve_component(name: str | Path, revision: str | None, variant: str | None) -> Path:
    """The same for a single network, whose files are not in folders: a published CLIP."""
    _check(name, revision, variant)
    wanted = hub_name(name)
    if wanted is None:
        return _at(_here(name), revision)
    return _snapshot(wanted, revision, ["config.json", *_weights("", variant), *_CARD], Access())


def hub_name(name: str | Path) -> str | None:
    """The "owner/model" of "hf:owner/model"; None for a path.

    Raises:
        ValueError: there is another thing than a name behind "hf:".
    """
    if not isinstance(name, str) or not name.startswith(PREFIX):
        return None
    wanted = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(wanted):
        raise ValueError(f"{shown(name)} is no model on the Hub: write hf:owner/model")
    return wanted


def is_bundled(name: str | Path) -> bool:
    """Whether it names the package's own model; a folder of that name, if there is one, is meant
    instead."""
    return name == BUNDLED and not Path(name).exists()


def commit_of(path: Path) -> str | None:
    """The commit that a folder in the Hub's cache is of; None for any other folder."""
    in_cache = path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name)
    return path.name if in_cache else None


_FILES = (".png", ".jpg", ".jpeg", ".webp", ".safetensors", ".npy", ".toml")  # of no model's name


def absent(name: str | Path, what: str = "model folder") -> str:
    """What to say of a path where nothing is, which may be meant for a model on the Hub."""
    hint = f"; the model of that name on the Hugging Face Hub is hf:{name}"
    is_like_one = _NAME.fullmatch(str(name)) and Path(name).suffix.lower() not in _FILES
    return f"there is no {what} {name}{hint if is_like_one else ''}"


def _check(name: Any, revision: Any, variant: Any) -> None:
    """Refuse what is no path or name, no revision, or no variant."""
    as_path(name, "folder")
    for value, what in ((revision, "revision"), (variant, "variant")):
        if value is not None and not (isinstance(value, str) and _WORD.fullmatch(value)):
            raise ValueError(f"{what} is {shown(value)}, which can be no {what}'s name")


def _here(name: str | Path) -> Path:
    path = Path(name)
    if not path.exists():
        raise ValueError(absent(name))
    return path


def _at(path: Path, revision: str | None) -> Path:
    """The folder, if no other revision of it is asked for."""
    if revision not in (None, commit_of(path)):
        raise ValueError(
            f"revision is {revision!r}, but {path} is a folder: only models on the Hub, "
            "hf:owner/model, have revisions"
        )
    return path


def _patterns(components: Iterable[str], variant: str | None) -> list[str]:
    patterns = ["model_index.json", *_CARD]
    for component in components:
        patterns += [f"{component}/{name}" for name in ("*.json", "merges.txt", "words.txt")]
        patterns += _weights(f"{component}/", variant)
    return patterns


def _weights(where: str, variant: str | None) -> list[str]:
    if variant is None:  # of one model, whole or in shards: other files are other formats' copies
        stems = ("model", "diffusion_pytorch_model")
        return [f"{where}{stem}{end}" for stem in stems for end in _PLAIN]
    return [f"{where}*.{variant}{end}" for end in _PLAIN] + [f"{where}*.index.{variant}.json"]


_PLAIN = (".safetensors", "-*.safetensors", ".safetensors.index.json")


def _snapshot(name: str, revision: str | None, patterns: list[str], access: Access) -> Path:
    """Fetch what matches, unless it is in the cache; the snapshot's folder."""
    import huggingface_hub
    from huggingface_hub import errors

    fetch = access.fetch
    at = f" at the revision {revision!r}" if revision else ""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=patterns, local_files_only=not fetch,
                cache_dir=access.cache_dir, token=access.token,
            )
        )  # fmt: skip
    except errors.GatedRepoError:
        problem = "is on the Hub, but its owner asks for a login and for consent on its page"
    except errors.RepositoryNotFoundError:
        problem = "is no model on the Hugging Face Hub, or a private one"
    except errors.RevisionNotFoundError:
        problem = f"is on the Hub, but has no revision {revision!r}"
    except errors.LocalEntryNotFoundError:
        reason = "is out of reach" if fetch else "was not asked"
        problem = f"is not whole in the cache{at}, and the Hugging Face Hub "
        problem += reason
    except Exception as error:  # what its HTTP library raises has no common base
        problem = f"could not be fetched from the Hub: {_first_line(error)}"
    raise ValueError(f"{PREFIX}{name} {problem}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


UPLOADING = ("repo_id", "commit_message", "private", "token", "create_pr")
"""Arguments of an upload, by diffusers' names."""


def upload(
    folder: Path,
    name: Any,
    commit_message: str = "Upload a model of unclip",
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model folder to the Hub's repository `name`, made if need be; the commit's address.

    Raises:
        ValueError: no name of a repository; the Hub refuses it, or is out of reach.
    """
    wanted = name.removeprefix(PREFIX) if isinstance(name, str) else ""
    if not _REPOSITORY.fullmatch(wanted):
        raise ValueError(f"{shown(name)} is no repository on the Hub: write owner/model")
    of_kind(commit_message, str, "commit_message", "a string")
    import huggingface_hub

    try:
        made = huggingface_hub.create_repo(wanted, private=private, token=token, exist_ok=True)
        commit = huggingface_hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, token=token, commit_message=commit_message,
            create_pr=create_pr,
        )  # fmt: skip
    except Exception as error:  # what its HTTP library raises has no common base
        raise ValueError(
            f"{wanted} could not be uploaded to the Hub: {_first_line(error)}"
        ) from None
    return str(commit)
