"""Train the CRNN of `captcha.mopt` and write `weights.safetensors` (float16, to keep the repository small).

`python recipes/captcha/train.py [--small] [--steps N]`: seeded, about fifteen minutes on one core. `--small` trains the
student without a teacher, for comparison. Needs the extras `torch` and `recipes`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mopt.recipes.captcha.data import CHARSET, captchas
from mopt.recipes.captcha.model import CRNN, small
from mopt.runtime.judge.metrics import CharacterErrorRate, ExactMatch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
BATCH, RATE = 32, 3e-3


def train(model: CRNN, steps: int, count: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    split = captchas(0, train=count)["train"]
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    order: list[int] = []
    mean = 0.0
    for step in range(steps):
        if len(order) < BATCH:
            order += list(random.permutation(len(split)))
        batch, order = [split[int(index)] for index in order[:BATCH]], order[BATCH:]
        labels = torch.tensor([CHARSET.index(character) + 1 for one in batch for character in one["target"]])
        lengths = torch.tensor([len(one["target"]) for one in batch])
        images = torch.from_numpy(np.stack([one["image"] for one in batch]))
        scores = model(images).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            scores, labels, torch.full((BATCH,), len(scores)), lengths, zero_infinity=True
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        mean += loss.item()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {mean / 100:.4f}", flush=True)
            mean = 0.0
    model.eval()


def judge(model: CRNN) -> dict[str, float]:
    test = captchas(0)["test"]
    states: dict[str, Any] = {
        "cer": CharacterErrorRate(charset=(CHARSET,)).start(), "exact": ExactMatch(charset=(CHARSET,)).start(),
    }  # fmt: skip
    for start in range(0, len(test), 64):
        batch = test[start : start + 64]
        with torch.inference_mode():
            scores = model(torch.from_numpy(np.stack([one["image"] for one in batch]))).numpy()
        for state in states.values():
            state.update({"scores": scores}, [one["target"] for one in batch])
    return {name: state.compute() for name, state in states.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--samples", type=int, default=24000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = small() if given.small else CRNN()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, given.steps, given.samples)
    # What is stored is what is judged.
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    print(judge(model), flush=True)
    save_file(state, given.out or FOLDER / ("small.safetensors" if given.small else "weights.safetensors"))


if __name__ == "__main__":
    main()
