"""The three networks of MTCNN (Zhang et al. 2016), with the parameter names of facenet-pytorch's weights."""

from torch import nn


class Stage(nn.Module):
    def convolutions(self, *plan):
        for number, (inputs, outputs, kernel) in enumerate(plan, 1):
            setattr(self, f"conv{number}", nn.Conv2d(inputs, outputs, kernel))
            setattr(self, f"prelu{number}", nn.PReLU(outputs))

    def layer(self, number, x):
        return getattr(self, f"prelu{number}")(getattr(self, f"conv{number}")(x))


class PNet(Stage):
    def __init__(self):
        super().__init__()
        self.convolutions((3, 10, 3), (10, 16, 3), (16, 32, 3))
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, image):
        x = self.layer(3, self.layer(2, self.pool1(self.layer(1, image))))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)


class RNet(Stage):
    def __init__(self):
        super().__init__()
        self.convolutions((3, 28, 3), (28, 48, 3), (48, 64, 2))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, image):
        x = self.layer(3, self.pool(self.layer(2, self.pool(self.layer(1, image)))))
        x = x.permute(0, 3, 2, 1).contiguous()
        x = self.prelu4(self.dense4(x.view(x.shape[0], -1)))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)


class ONet(Stage):
    def __init__(self):
        super().__init__()
        self.convolutions((3, 32, 3), (32, 64, 3), (64, 64, 3), (64, 128, 2))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, image):
        x = self.layer(3, self.pool(self.layer(2, self.pool(self.layer(1, image)))))
        x = self.layer(4, self.pool3(x)).permute(0, 3, 2, 1).contiguous()
        x = self.prelu5(self.dense5(x.view(x.shape[0], -1)))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(1)
