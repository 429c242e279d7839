"""A CRNN for captchas in PyTorch (Shi et al. 2017): convolutions, two bidirectional LSTMs and a CTC head."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 20  # the CTC blank, then the characters of `data.CHARSET`


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch normalisation, ReLU, max pooling."""

    def __init__(self, inputs: int, outputs: int, pool: tuple[int, int]) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(pool),
        )


class CRNN(nn.Module):
    """f32[N, 1, 48, W] (0 to 1) → f32[N, W / 4, 20] logits, class 0 being the CTC blank."""

    def __init__(self, channels: tuple[int, int, int, int] = (24, 48, 64, 96), hidden: int = 96) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.conv1 = ConvBlock(1, first, (2, 2))
        self.conv2 = ConvBlock(first, second, (2, 2))
        self.conv3 = ConvBlock(second, third, (2, 1))
        self.conv4 = ConvBlock(third, fourth, (2, 1))
        self.rnn1 = nn.LSTM(3 * fourth, hidden, batch_first=True, bidirectional=True)
        self.rnn2 = nn.LSTM(2 * hidden, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(image))))  # [N, C, 3, T]
        x = x.flatten(1, 2).transpose(1, 2)  # [N, T, 3 · C]
        x, _ = self.rnn1(x)
        x, _ = self.rnn2(x)
        return self.head(x)


def small() -> CRNN:
    """A student: fewer channels and narrower LSTMs, 52 % of the parameters."""
    return CRNN(channels=(16, 32, 48, 72), hidden=68)
