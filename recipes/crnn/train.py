"""Train the CRNN of `crnn.mopt`, write `weights.safetensors`, and the same network for Keras, `crnn.keras`.

`python recipes/crnn/train.py`: seeded, a few minutes on one core. Needs the extras `torch` and `tensorflow`.
`python recipes/crnn/train.py --keras` only writes the Keras file from the weights there are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import torch
from mopt.recipes.crnn.data import compose, glyphs, numbers
from mopt.recipes.crnn.model import CRNN
from mopt.runtime.contract import Metric
from mopt.runtime.judge.metrics import CharacterErrorRate, ExactMatch
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent
STEPS, BATCH, RATE = 2500, 32, 4e-3


def train() -> CRNN:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    known, _ = glyphs()
    model = CRNN()
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for step in range(STEPS):
        images, texts = zip(*(compose(known, random, noise=random.uniform(0, 0.25)) for _ in range(BATCH)), strict=True)
        labels = torch.tensor([int(character) + 1 for text in texts for character in text])
        lengths = torch.tensor([len(text) for text in texts])
        scores = model(torch.from_numpy(np.stack(images))).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            scores, labels, torch.full((BATCH,), len(scores)), lengths, zero_infinity=True
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    model.eval()
    return model


def to_keras(model: CRNN) -> Any:
    """Build `keras_model.crnn` and give it the PyTorch weights."""
    from mopt.recipes.crnn.keras_model import crnn

    twin = crnn()
    for index, block in enumerate((model.conv1, model.conv2, model.conv3), 1):
        convolution, norm = block[0], block[1]
        twin.get_layer(f"conv{index}").set_weights([convolution.weight.detach().numpy().transpose(2, 3, 1, 0)])
        twin.get_layer(f"norm{index}").set_weights(
            [value.detach().numpy() for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
        )
    weights = []
    for suffix in ("l0", "l0_reverse"):
        part = {name: getattr(model.rnn, f"{name}_{suffix}").detach().numpy() for name in ("weight_ih", "weight_hh")}
        bias = getattr(model.rnn, f"bias_ih_{suffix}") + getattr(model.rnn, f"bias_hh_{suffix}")
        weights += [part["weight_ih"].T, part["weight_hh"].T, bias.detach().numpy()]
    twin.get_layer("rnn").set_weights(weights)
    twin.get_layer("head").set_weights([model.head.weight.detach().numpy().T, model.head.bias.detach().numpy()])
    return twin


def main() -> None:
    path = FOLDER / "weights.safetensors"
    if "--keras" in sys.argv[1:]:
        model = CRNN().eval()
        model.load_state_dict(load_file(path))
    else:
        model = train()
        state = {name: value.contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
        save_file(state, path)
    test = numbers()["test"]
    images, texts = np.stack([sample["image"] for sample in test]), [str(sample["target"]) for sample in test]
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    digits = ("0123456789",)
    metrics: tuple[Metric, ...] = (CharacterErrorRate(charset=digits), ExactMatch(charset=digits))
    for metric in metrics:
        judged = metric.start()
        judged.update({"logits": logits}, texts)
        print(f"test {metric.name}: {judged.compute():.4f}")
    twin = to_keras(model)
    difference = np.abs(np.asarray(twin(images)) - logits).max()
    print(f"Keras against PyTorch: largest difference {difference:.2e}")
    if difference > 1e-4:
        raise SystemExit("the two networks disagree; nothing written")
    twin.save(FOLDER / "crnn.keras")


if __name__ == "__main__":
    main()
