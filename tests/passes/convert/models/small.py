"""Small PyTorch modules, each with a trap for an exporter or for a loader."""

import torch
from torch import nn


class Mlp(nn.Module):
    def __init__(self, inputs=6, hidden=8, outputs=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, outputs)

    def forward(self, features):
        return self.head(self.body(features))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Recogniser(nn.Module):
    """Convolutions, batch norms (equal ones, as fresh modules have), a recurrent part and a head."""

    def __init__(self, classes=5, height=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.rnn = nn.LSTM(8 * height, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(24, 10, batch_first=True)
        self.head = nn.Linear(10, classes)

    def forward(self, image):
        x = self.layer1(self.stem(image))
        batch, channels, height, width = x.shape
        x = x.permute(0, 3, 1, 2).reshape(batch, width, channels * height)
        return self.head(self.gru(self.rnn(x)[0])[0])


class TwoHeads(nn.Module):
    """A dictionary of outputs, an input that nothing reads, and one passed by keyword past an optional one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 2)
        self.b = nn.Linear(4, 3)

    def forward(self, x, scale=None, shift=None, unused=None):
        y = x if scale is None else x * scale
        y = y if shift is None else y + shift
        return {"left": self.a(y), "right": (self.b(y), y)}


class BatchInPython(nn.Module):
    """Branches on the batch size in Python: the TorchScript exporter follows the traced branch only."""

    def __init__(self):
        super().__init__()
        self.near = nn.Linear(4, 4)
        self.far = nn.Linear(4, 4)

    def forward(self, x):
        return self.near(x) if x.shape[0] == 2 else self.far(x)


class Counting(nn.Module):
    """Keeps state between calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class MultipleOf(nn.Module):
    """Takes widths that are multiples of 12 only."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x):
        return self.linear(x.reshape(x.shape[0], -1, 12)).mean(1)


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Mlp()
        self.other = nn.Linear(3, 3)

    def forward(self, x):
        return self.other(self.encoder(x))


def tensor():
    return torch.zeros(3)


def nothing():
    return None


def the_class():
    return Mlp


def fails():
    return _deeper({})


def _deeper(table):
    return table["missing key"]


def leaves():
    import sys

    sys.exit(7)


def crashes():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def quits():
    import os

    os._exit(3)


def prints():
    import os
    import sys

    print("printed by the factory")
    os.write(1, b"written to descriptor 1\n")
    sys.stderr.write("complained by the factory\n")
    return Mlp()


def sleeps():
    import time

    time.sleep(600)


class RaisesInForward(Mlp):
    def forward(self, features):
        raise ValueError("no such luck")


number = 3
