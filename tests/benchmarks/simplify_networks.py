"""PyTorch networks of the benchmark whose weights ship in packages that bring no importable class of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MobileNetV2(nn.Sequential):
    """MobileNetV2 (Sandler et al. 2018), width 1.0, with torchvision's parameter names; (N, 3, H, W) -> (N, 1000)."""

    def __init__(self) -> None:
        settings = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        layers: list[nn.Module] = [_conv_bn_relu(3, 32, stride=2)]
        channels = 32
        for expansion, width, repeats, stride in settings:
            for index in range(repeats):
                layers.append(_InvertedResidual(channels, width, stride if index == 0 else 1, expansion))
                channels = width
        layers.append(_conv_bn_relu(channels, 1280, kernel=1))
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).mean([2, 3]))


def _conv_bn_relu(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [] if expansion == 1 else [_conv_bn_relu(inputs, hidden, kernel=1)]
        layers += [
            _conv_bn_relu(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class Crnn(nn.Module):
    """EasyOCR's second-generation recogniser (VGG, 2 BiLSTM, linear); (1, 1, 64, W) -> (1, W/4 - 1, 97)."""

    def __init__(self, classes: int = 97, hidden: int = 256) -> None:
        super().__init__()
        self.FeatureExtraction = _Vgg()
        self.SequenceModeling = nn.Sequential(_BiLstm(256, hidden, hidden), _BiLstm(hidden, hidden, hidden))
        self.Prediction = nn.Linear(hidden, classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.FeatureExtraction(image).permute(0, 3, 1, 2)
        features = nn.functional.adaptive_avg_pool2d(features, (256, 1)).squeeze(3)
        return self.Prediction(self.SequenceModeling(features).contiguous())


class _Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        relu = lambda: nn.ReLU(True)  # noqa: E731
        self.ConvNet = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1), relu(), nn.MaxPool2d(2, 2),
            nn.Conv2d(32, 64, 3, 1, 1), relu(), nn.MaxPool2d(2, 2),
            nn.Conv2d(64, 128, 3, 1, 1), relu(), nn.Conv2d(128, 128, 3, 1, 1), relu(), nn.MaxPool2d((2, 1), (2, 1)),
            nn.Conv2d(128, 256, 3, 1, 1, bias=False), nn.BatchNorm2d(256), relu(),
            nn.Conv2d(256, 256, 3, 1, 1, bias=False), nn.BatchNorm2d(256), relu(), nn.MaxPool2d((2, 1), (2, 1)),
            nn.Conv2d(256, 256, 2, 1, 0), relu(),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return self.ConvNet(image)


class _BiLstm(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(hidden * 2, outputs)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.linear(self.rnn(sequence)[0])


class MiniLm(nn.Module):
    """MiniLM-L6 (BERT, 6 layers of 384) with the Hugging Face parameter names; (N, T) ids -> (N, T, 384)."""

    def __init__(
        self, layers: int = 6, width: int = 384, heads: int = 12, hidden: int = 1536, words: int = 30522
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(words, width),
            "position_embeddings": nn.Embedding(512, width),
            "token_type_embeddings": nn.Embedding(2, width),
            "LayerNorm": nn.LayerNorm(width, eps=1e-12),
        })  # fmt: skip
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_BertLayer(width, heads, hidden) for _ in range(layers))})

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        states = (
            self.embeddings["word_embeddings"](input_ids)
            + self.embeddings["token_type_embeddings"](token_type_ids)
            + self.embeddings["position_embeddings"](positions)
        )
        states = self.embeddings["LayerNorm"](states)
        bias = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * -1e4
        for layer in self.encoder["layer"]:
            states = layer(states, bias)
        return states


class _BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
            "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}),
        })  # fmt: skip
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def _split(self, states: Tensor) -> Tensor:
        return states.view(states.shape[0], states.shape[1], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (self._split(self.attention["self"][name](states)) for name in ("query", "key", "value"))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        context = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).reshape(states.shape)
        attended = self.attention["output"]["dense"](context)
        states = self.attention["output"]["LayerNorm"](attended + states)
        inner = nn.functional.gelu(self.intermediate["dense"](states))
        return self.output["LayerNorm"](self.output["dense"](inner) + states)


class FaceStage(nn.Module):
    """One stage of MTCNN (Zhang et al. 2016) with facenet-pytorch's parameter names; `name` is pnet, rnet or onet."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stage = name
        # (output channels, kernel, pool kernel and stride or None) of each convolution.
        plan = {
            "pnet": ((10, 3, (2, 2)), (16, 3, None), (32, 3, None)),
            "rnet": ((28, 3, (3, 2)), (48, 3, (3, 2)), (64, 2, None)),
            "onet": ((32, 3, (3, 2)), (64, 3, (3, 2)), (64, 3, (2, 2)), (128, 2, None)),
        }[name]
        self.pools = tuple(pool for _, _, pool in plan)
        channels = 3
        for index, (width, kernel, _) in enumerate(plan, start=1):
            self.add_module(f"conv{index}", nn.Conv2d(channels, width, kernel))
            self.add_module(f"prelu{index}", nn.PReLU(width))
            channels = width
        self.depth = len(plan)
        self.heads: tuple[str, ...]
        if name == "pnet":
            self.heads = ("conv4_1", "conv4_2")
            self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)
        elif name == "rnet":
            self.heads = ("dense5_1", "dense5_2")
            self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
            self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)
        else:
            self.heads = ("dense6_1", "dense6_2", "dense6_3")
            self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
            self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        for index, pool in enumerate(self.pools, start=1):
            x = self.get_submodule(f"prelu{index}")(self.get_submodule(f"conv{index}")(x))
            if pool is not None:
                x = nn.functional.max_pool2d(x, pool[0], pool[1], ceil_mode=True)
        if self.stage != "pnet":
            x = x.permute(0, 3, 2, 1).contiguous()
            x = self.get_submodule(f"dense{self.depth + 1}")(x.view(x.shape[0], -1))
            x = self.get_submodule(f"prelu{self.depth + 1}")(x)
        score, *others = (self.get_submodule(head)(x) for head in self.heads)
        return (*others, score.softmax(1))
