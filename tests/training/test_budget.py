"""What a recipe asks of memory, refused before it is taken."""

import threading

import pytest
import torch
from torch import nn

from unclip.training import budget
from unclip.training.budget import check_images, machine_memory, parameters_within_memory

CPU = torch.device("cpu")


def test_memory_is_that_of_the_machine_or_less() -> None:
    assert 2**28 < machine_memory() < 2**63


def test_networks_are_counted_while_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "machine_memory", lambda: 16 * 1000)
    built = []
    with (
        pytest.raises(ValueError, match="the network has more than 1,000 parameters"),
        parameters_within_memory(CPU),
    ):
        built += [nn.Linear(30, 30) for _ in range(1000)]
    with parameters_within_memory(CPU):
        nn.Linear(30, 30)
        nn.Linear(3000, 3000, device="meta")
        other = threading.Thread(target=lambda: nn.Linear(300, 300))
        other.start()
        other.join()
    with parameters_within_memory(torch.device("cuda")):  # only built here
        nn.Linear(60, 60)
    nn.Linear(60, 60)  # outside nothing is counted


def test_a_network_that_no_machine_holds_is_refused_before_it_is_filled() -> None:
    weight = torch.empty(1).expand(2**25, 2**25)  # takes no memory
    with pytest.raises(ValueError, match="more than"), parameters_within_memory(CPU):
        nn.Embedding(*weight.shape, _weight=weight)


def test_images_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "machine_memory", lambda: 2**30)
    check_images(1000, 128)
    with pytest.raises(ValueError, match=r"1,000,000 images of 64 pixels .* raise .*accumulation"):
        check_images(1_000_000, 64)
