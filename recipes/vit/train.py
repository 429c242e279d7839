"""Train the network of `vit.mopt`; write `weights.safetensors` (in halves) and `sample.npz`.

`python recipes/vit/train.py`: seeded, about ten minutes on one core. Needs the extra `torch` and the data set, see
`data.py`. `python recipes/vit/train.py --sample` writes `sample.npz` alone, with the weights there are.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mopt.recipes.vit.data import SAMPLE, read, scaled
from mopt.recipes.vit.model import VisionTransformer
from safetensors.torch import load_file, save_file

EPOCHS, BATCH, RATE, DROPOUT = 12, 128, 2e-3, 0.05
CALIBRATION, TEST = 160, 500


def mirror(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen, images.flip(-1), images)


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
    parts = [read("train"), read("t10k")]
    (train_x, train_y), (test_x, test_y) = (
        (torch.from_numpy(scaled(images)), torch.from_numpy(labels.astype(np.int64))) for images, labels in parts
    )
    model = VisionTransformer(dropout=DROPOUT)
    steps = EPOCHS * math.ceil(len(train_x) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    start = time.process_time()
    for epoch in range(EPOCHS):
        model.train()
        losses = []
        for chunk in torch.randperm(len(train_x), generator=generator).split(BATCH):
            logits = model(mirror(train_x[chunk], generator))
            loss = torch.nn.functional.cross_entropy(logits, train_y[chunk])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.process_time() - start:.0f} s", flush=True)
    model.half().float()
    print(f"train accuracy {accuracy(model, train_x[:10000], train_y[:10000]):.4f}")
    print(f"test accuracy {accuracy(model, test_x, test_y):.4f}")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, Path(__file__).with_name("weights.safetensors"))


def write_sample() -> None:
    """Write `sample.npz`, with the class that the trained network itself gives each test image."""
    model = VisionTransformer().eval()
    model.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))
    (calib_images, calib_labels), (test_images, test_labels) = (
        (images[:count], labels[:count])
        for (images, labels), count in ((read("train"), CALIBRATION), (read("t10k"), TEST))
    )
    with torch.inference_mode():
        classes = model(torch.from_numpy(scaled(test_images))).argmax(1).numpy().astype(np.uint8)
    np.savez_compressed(
        SAMPLE, calib_images=calib_images, calib_labels=calib_labels, test_images=test_images,
        test_labels=test_labels, test_classes=classes,
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] != ["--sample"]:
        main()
    write_sample()
