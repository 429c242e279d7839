"""Train the network of `quickstart.mopt` and write `weights.safetensors`: `python recipes/digits/train.py`.

Seeded; about a minute on one core. Needs the extra `torch`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from mopt.recipes.digits.data import arrays
from mopt.recipes.digits.model import DigitNet
from safetensors.torch import save_file

EPOCHS, BATCH, RATE = 60, 64, 3e-3


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale and shift each image a little (bilinear, zeros outside)."""
    n = len(images)
    uniform = torch.rand(n, 4, generator=generator) * 2 - 1
    angle, scale, shift = uniform[:, 0] * 0.2, 1 + uniform[:, 1] * 0.1, uniform[:, 2:] * 0.2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        return float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(0)
    (train_x, train_y), (test_x, test_y) = (tuple(map(torch.from_numpy, part)) for part in arrays())
    model = DigitNet()
    steps = EPOCHS * math.ceil(len(train_x) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        losses = []
        for chunk in torch.randperm(len(train_x), generator=generator).split(BATCH):
            logits = model(jitter(train_x[chunk], generator))
            loss = torch.nn.functional.cross_entropy(logits, train_y[chunk], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
    print(f"train accuracy {accuracy(model, train_x, train_y):.4f}")
    print(f"test accuracy {accuracy(model, test_x, test_y):.4f}")
    # The counter of batches seen is no parameter of the function and would only be an unused tensor.
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(state, Path(__file__).with_name("weights.safetensors"))


if __name__ == "__main__":
    main()
