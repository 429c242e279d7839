"""Train the network of `fashion.mopt` and write `weights.safetensors` (in halves): `python recipes/fashion/train.py`.

Seeded; under four minutes on one core. Needs the extra `torch` and the data set, see `data.py`.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from mopt.recipes.fashion.data import HELD, read, scaled
from mopt.recipes.fashion.model import FashionNet
from safetensors.torch import save_file

EPOCHS, BATCH, RATE = 6, 64, 4e-3


def mirror(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images, and shift each by up to two pixels."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(chosen, images.flip(-1), images)
    down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
    return torch.nn.functional.pad(images, (2, 2, 2, 2))[:, :, down : down + 28, right : right + 28]


def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        found = torch.cat([model(chunk).argmax(1) for chunk in images.split(500)])
    return float((found == labels).float().mean())


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(0)
    (train_x, train_y), (test_x, test_y) = (
        (torch.from_numpy(scaled(images)), torch.from_numpy(labels.astype(np.int64)))
        for images, labels in (read("train"), read("t10k"))
    )
    train_x, train_y = train_x[:-HELD], train_y[:-HELD]
    model = FashionNet()
    steps = EPOCHS * math.ceil(len(train_x) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    start = time.process_time()
    for epoch in range(EPOCHS):
        model.train()
        losses = []
        for chunk in torch.randperm(len(train_x), generator=generator).split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(mirror(train_x[chunk], generator)), train_y[chunk])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.process_time() - start:.0f} s", flush=True)
    model.half().float()
    print(f"train accuracy {accuracy(model, train_x[:10000], train_y[:10000]):.4f}")
    print(f"test accuracy {accuracy(model, test_x, test_y):.4f}")
    # The counter of batches seen is no parameter of the function and would only be an unused tensor.
    state = {name: value.half() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(
        {name: value.contiguous() for name, value in state.items()}, Path(__file__).with_name("weights.safetensors")
    )


if __name__ == "__main__":
    main()
