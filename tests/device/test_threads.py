"""Small layers on some threads."""

import torch

from unclip.device.threads import layer_seconds


def test_seconds_leave_the_process_as_it_was() -> None:
    before = torch.get_num_threads()
    assert all(0 < layer_seconds(threads, rounds=2) < 10 for threads in (1, 2))
    assert torch.get_num_threads() == before
