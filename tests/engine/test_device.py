"""The choice of a device, where there is no GPU."""

import pytest
import torch
from pydantic import ValidationError

from engine.config import WorkerConfig
from engine.device import choose_device, configured_for, open_model
from engine.errors import ConfigError
from protos import worker_pb2 as pb


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_without_a_gpu_it_is_the_cpu(name: str) -> None:
    assert choose_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused_before_a_model_is_looked_for(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {name}: this torch finds no CUDA device"):
        open_model(WorkerConfig(device=name, model="/nowhere"), pb.ROLE_DECODE)


def test_a_gpu_without_triton_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match="triton is not installed"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_a_number_past_the_last_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())

    with pytest.raises(ConfigError, match="there are 2 CUDA devices"):
        choose_device("cuda:2")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "mps"])
def test_other_names_are_no_devices(name: str) -> None:
    with pytest.raises(ValidationError):
        WorkerConfig(device=name)


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_float8_is_refused_on_a_cpu_before_a_model_is_looked_for(name: str) -> None:
    with pytest.raises(ConfigError, match="--quantization fp8 needs a GPU"):
        open_model(WorkerConfig(device=name, model="/nowhere", quantization="fp8"), pb.ROLE_DECODE)


def test_on_a_gpu_a_step_takes_prompts_that_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu, told = WorkerConfig(device="auto"), WorkerConfig(device="auto", max_step_tokens=64)
    assert configured_for(on_cpu, pb.ROLE_PREFILL) is on_cpu

    monkeypatch.setattr("engine.device.choose_device", lambda name: torch.device("cuda", 0))

    assert configured_for(on_cpu, pb.ROLE_PREFILL).max_step_tokens == 8192
    assert configured_for(on_cpu, pb.ROLE_DECODE).max_step_tokens == 2048
    assert configured_for(told, pb.ROLE_PREFILL) is told
    assert "max_step_tokens" in configured_for(on_cpu, pb.ROLE_DECODE).model_fields_set, "as its ranks are told"
