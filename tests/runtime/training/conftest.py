"""A small network over scikit-learn's digits, as the loop sees one: feeds in, outputs out, by name."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("accelerate", reason="needs the extra `torch`")

from mopt.ir import TensorInfo  # noqa: E402
from mopt.recipes.digits.data import digits  # noqa: E402
from mopt.runtime.data.splits import as_split  # noqa: E402
from mopt.runtime.judge.losses import CrossEntropy  # noqa: E402
from mopt.runtime.training.batches import TrainingData  # noqa: E402
from mopt.runtime.training.loop import train  # noqa: E402
from mopt.runtime.training.objective import LossObjective  # noqa: E402
from mopt.runtime.training.settings import Settings  # noqa: E402

INPUTS = (TensorInfo("image", "f32", ("N", 1, 8, 8)),)


class Net(torch.nn.Module):
    """Batch normalisation has buffers, dropout draws random numbers: both have to survive a resume."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.hidden, self.norm = torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32)
        self.dropout, self.head = torch.nn.Dropout(dropout), torch.nn.Linear(32, 10)

    def forward(self, feeds):
        return {"y": self.head(self.dropout(torch.relu(self.norm(self.hidden(feeds["image"].flatten(1))))))}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def split():
    return as_split(digits()["train"][:300], "scans.train")


@pytest.fixture(scope="session")
def held_out():
    return as_split(digits()["test"][:100], "scans.test")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def start(split):
    """Train a fresh network; returns it with the result."""

    def begin(network=None, *, objective=None, data=None, **options):
        if network is None:
            torch.manual_seed(0)
            network = Net()
        extra = {name: options.pop(name) for name in ("monitor", "hooks", "checkpoints", "display") if name in options}
        settings = Settings(**{"batch": 32, "rate": 3e-3, "device": "cpu", **options})
        data = data or TrainingData(split, INPUTS, settings.batch, seed=settings.seed)
        result = train(network, objective or LossObjective(CrossEntropy()), data, settings, **extra)
        return network, result

    return begin


@pytest.fixture
def same():
    """Tell whether two networks have bitwise the same weights and buffers."""

    def compare(a, b):
        left, right = a.state_dict(), b.state_dict()
        return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)

    return compare


@pytest.fixture
def inputs():
    return INPUTS


@pytest.fixture
def arrays():
    """Samples of the given shapes."""

    def make(shapes):
        return [{"x": np.full(shape, n, np.float32), "target": n} for n, shape in enumerate(shapes)]

    return make
