"""A batch on its way to the device."""

import torch

from unclip.batch import on_device


def test_images_become_floats_once() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    labels = torch.randint(0, 9, (2, 6), dtype=torch.uint8)
    batch = on_device(
        {"images": images, "captions": ["a", "b"], "labels": labels}, torch.device("cpu")
    )
    assert torch.equal(batch["images"], images / 127.5 - 1)
    assert torch.equal(batch["labels"], labels)
    assert batch["labels"].dtype == torch.uint8
    assert batch["captions"] == ["a", "b"]
    again = on_device(batch, torch.device("cpu"))
    assert torch.equal(again["images"], batch["images"])
