"""PyTorch networks of the pruning benchmark whose structure is what counts; their weights are random."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.second(self.first(x)))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016): identity shortcuts in every stage; (N, 3, H, W) → (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        self.stages = nn.Sequential(*(nn.Sequential(_Block(i, o, stride), _Block(o, o, 1)) for i, o, stride in widths))
        self.head = nn.Linear(512, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(image)).mean((2, 3)))


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(inner)))], 1)


class DenseNet(nn.Module):
    """A short DenseNet-BC (Huang et al. 2017), blocks of 4, 6, 6 and 4 layers; (N, 3, H, W) → (N, 1000)."""

    def __init__(self, growth: int = 32, blocks: tuple[int, ...] = (4, 6, 6, 4)) -> None:
        super().__init__()
        width = 2 * growth
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        for index, count in enumerate(blocks):
            for _ in range(count):
                layers.append(_DenseLayer(width, growth))
                width += growth
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            if index + 1 < len(blocks):
                layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
                width //= 2
        self.features, self.head = nn.Sequential(*layers), nn.Linear(width, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean((2, 3)))


class _Csp(nn.Module):
    """Halves, bottlenecks on one of them, all of them concatenated (YOLOv8's C2f)."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, residual: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.into, self.out = _conv(inputs, outputs, 1), _conv((2 + depth) * half, outputs, 1)
        self.steps = nn.ModuleList(nn.Sequential(_conv(half, half), _conv(half, half)) for _ in range(depth))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.into(x).chunk(2, 1))
        for step in self.steps:
            parts.append(step(parts[-1]) + parts[-1] if self.residual else step(parts[-1]))
        return self.out(torch.cat(parts, 1))


class Yolo(nn.Module):
    """A detector as YOLOv8 builds them: CSP blocks, spatial pooling, a neck that upsamples and concatenates, two heads.

    (N, 3, H, W) → (N, 84, H/16, W/16), (N, 84, H/32, W/32).
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            _conv(3, w, 3, 2), _conv(w, 2 * w, 3, 2), _Csp(2 * w, 2 * w, 1, residual=True),
            _conv(2 * w, 4 * w, 3, 2), _Csp(4 * w, 4 * w, 2, residual=True),
        )  # fmt: skip
        self.stage4 = nn.Sequential(_conv(4 * w, 8 * w, 3, 2), _Csp(8 * w, 8 * w, 2, residual=True))
        self.stage5 = nn.Sequential(_conv(8 * w, 16 * w, 3, 2), _Csp(16 * w, 16 * w, 1, residual=True))
        self.narrow, self.wide = _conv(16 * w, 8 * w, 1), _conv(4 * 8 * w, 16 * w, 1)
        self.up = _Csp(16 * w + 8 * w, 8 * w, 1, residual=False)
        self.down = _conv(8 * w, 8 * w, 3, 2)
        self.last = _Csp(8 * w + 16 * w, 16 * w, 1, residual=False)
        self.heads = nn.ModuleList(nn.Sequential(_conv(n * w, 4 * w), nn.Conv2d(4 * w, 84, 1)) for n in (8, 16))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stage4(self.stem(image))
        pooled = [self.narrow(self.stage5(fine))]
        for _ in range(3):
            pooled.append(nn.functional.max_pool2d(pooled[-1], 5, 1, 2))
        coarse = self.wide(torch.cat(pooled, 1))
        fine = self.up(torch.cat([nn.functional.interpolate(coarse, scale_factor=2.0), fine], 1))
        return self.heads[0](fine), self.heads[1](self.last(torch.cat([self.down(fine), coarse], 1)))
