"""A diffusion process on disk: the scheduler_config.json of diffusers' UnCLIPScheduler."""

from dataclasses import asdict
from typing import Any

from unclip.checks import shown
from unclip.config import from_mapping
from unclip.diffusion.schedules import DiffusionConfig
from unclip.storage.folder import ModelFolder

SCHEDULER = "UnCLIPScheduler"  # the layout's class


def scheduler_json(config: DiffusionConfig) -> dict[str, Any]:
    """The scheduler_config.json of this process."""
    return {"_class_name": SCHEDULER, **asdict(config)}


def save_scheduler(folder: ModelFolder, component: str, config: DiffusionConfig) -> None:
    """Write a scheduler component."""
    files = {"scheduler_config.json": scheduler_json(config)}
    folder.save(component, ("diffusers", SCHEDULER), files)


def load_scheduler(folder: ModelFolder, component: str) -> DiffusionConfig:
    """Read a scheduler component.

    Raises:
        ValueError: another scheduler's, an unknown key, or a bad value.
    """
    written = folder.config(component)
    name = written.get("_class_name", SCHEDULER)
    if name != SCHEDULER:
        raise ValueError(
            f"{folder.path / component} is a {shown(name)}; only {SCHEDULER}'s process is known"
        )
    mapping = {k: v for k, v in written.items() if not k.startswith("_")}
    if mapping.get("variance_type") == "fixed_small":  # its logarithm is taken in any case
        mapping["variance_type"] = "fixed_small_log"
    return from_mapping(DiffusionConfig, mapping, str(folder.path / component))
