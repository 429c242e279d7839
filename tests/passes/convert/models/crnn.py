"""CRNN (Shi et al. 2015) with the layer names of easyocr's second-generation recognisers."""

from torch import nn


class BidirectionalLSTM(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(hidden * 2, outputs)

    def forward(self, x):
        return self.linear(self.rnn(x)[0])


class Features(nn.Module):
    def __init__(self, a=32, b=64, c=128, d=256):
        super().__init__()
        self.ConvNet = nn.Sequential(
            nn.Conv2d(1, a, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2),
            nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2),
            nn.Conv2d(b, c, 3, 1, 1), nn.ReLU(True),
            nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d((2, 1), (2, 1)),
            nn.Conv2d(c, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d), nn.ReLU(True),
            nn.Conv2d(d, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d), nn.ReLU(True), nn.MaxPool2d((2, 1), (2, 1)),
            nn.Conv2d(d, d, 2, 1, 0), nn.ReLU(True),
        )  # fmt: skip

    def forward(self, x):
        return self.ConvNet(x)


class Crnn(nn.Module):
    def __init__(self, classes=97, hidden=256):
        super().__init__()
        self.FeatureExtraction = Features()
        self.AdaptiveAvgPool = nn.AdaptiveAvgPool2d((None, 1))
        self.SequenceModeling = nn.Sequential(
            BidirectionalLSTM(256, hidden, hidden), BidirectionalLSTM(hidden, hidden, hidden)
        )
        self.Prediction = nn.Linear(hidden, classes)

    def forward(self, image):
        visual = self.FeatureExtraction(image).permute(0, 3, 1, 2)
        return self.Prediction(self.SequenceModeling(self.AdaptiveAvgPool(visual).squeeze(3)))
