"""A CRNN in PyTorch (Shi et al. 2017): convolutions, a bidirectional LSTM and a CTC head."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 11  # the CTC blank, then the digits 0 to 9


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
    """f32[N, 1, 16, W] (0 to 1) → f32[N, W / 4, 11] logits, class 0 being the CTC blank."""

    def __init__(self, channels: tuple[int, int, int] = (24, 48, 64), hidden: int = 48) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = ConvBlock(1, first, (2, 2))
        self.conv2 = ConvBlock(first, second, (2, 2))
        self.conv3 = ConvBlock(second, third, (4, 1))
        self.rnn = nn.LSTM(third, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv3(self.conv2(self.conv1(image)))  # [N, C, 1, T]
        x, _ = self.rnn(x.squeeze(2).transpose(1, 2))  # [N, T, 2 · hidden]
        return self.head(x)
