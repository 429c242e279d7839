"""Energy of a run: read off NVML where it is, and said not to be measured elsewhere."""

from __future__ import annotations

import sys

import pytest
from mopt.runtime.gpu import Missing, gpus
from mopt.runtime.profiler.energy import Energy, Meter, measure_energy, open_meter


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class Nvml:
    """A board that draws 200 W by a clock that is told, and counts in steps of 50 ms."""

    NVMLError = NVMLError

    def __init__(self, fails=None):
        self.now, self.fails = 0.0, fails

    def nvmlInit(self):
        if isinstance(self.fails, str):
            raise NVMLError(self.fails)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, device):
        if isinstance(self.fails, Exception):
            raise self.fails
        return int(self.now / 0.05) * 0.05 * 200 * 1000


def test_energy_is_what_the_counter_moved_by_a_run():
    nvml = Nvml()

    def run():
        nvml.now += 0.004

    found = measure_energy(open_meter("GPU-1", nvml), run, batch=8, seconds=2.0, clock=lambda: nvml.now)
    assert found.joules == pytest.approx(0.8, rel=0.06)
    assert found.watts == pytest.approx(200, rel=0.06)
    assert found.per_sample == pytest.approx(found.joules / 8)
    assert found.runs == pytest.approx(500, abs=2)
    assert found.to_json()["joules_per_sample"] == found.per_sample


def test_a_counter_that_never_moves_ends_too():
    nvml = Nvml()
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda device: 0

    def run():
        nvml.now += 0.1

    assert measure_energy(Meter(nvml, 0), run, seconds=1.0, clock=lambda: nvml.now).joules == 0.0


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_meter("GPU-1") == Missing("the package nvidia-ml-py is not installed", "pip install nvidia-ml-py")


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_there_is_nothing_to_read():
    assert "no NVIDIA GPU" in open_meter(nvml=Nvml()).reason


@pytest.mark.parametrize(
    ("fails", "told"),
    [(NVMLError_NotSupported(), "this GPU has no energy counter"), ("Driver Not Loaded", "Driver Not Loaded")],
)
def test_what_nvml_refuses_is_told(fails, told):
    assert told in open_meter("GPU-1", Nvml(fails)).reason


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
def test_a_real_board_tells():
    pytest.importorskip("pynvml")
    meter = open_meter()
    assert isinstance(meter, Missing) or isinstance(measure_energy(meter, lambda: None, seconds=0.5), Energy)
