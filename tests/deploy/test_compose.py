"""compose.yaml: valid by its schema, and what it tells each role is what that role takes; nobody is --insecure."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config import WorkerConfig
from engine.exposure import check_guarded, is_local
from engine.process import check_exposure
from frontend.config import FrontendConfig
from tests.deploy.compose import environment, services
from tests.deploy.files import COMPOSE, COMPOSE_GPU, DEPLOY, PROMETHEUS, PROVISIONING, ROOT
from tests.deploy.tools import run

ROLES: dict[str, type[WorkerConfig] | type[FrontendConfig]] = {
    "frontend": FrontendConfig,
    "prefill": WorkerConfig,
    "decode": WorkerConfig,
}
WORKERS = ("prefill", "decode")
VALIDATE = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def configured(role: str, monkeypatch: pytest.MonkeyPatch, *paths: Path, **variables: str) -> Any:
    """What the role's process makes of its environment."""
    for path in paths or (COMPOSE,):
        for name, value in environment(services(path, **variables)[role]).items():
            monkeypatch.setenv(name, value)
    return ROLES[role]()


def test_files_are_valid_by_the_compose_specification(tmp_path: Path) -> None:
    for path in (COMPOSE, COMPOSE_GPU):
        run(*VALIDATE, str(path))
    wrong = yaml.safe_load(COMPOSE.read_text())
    wrong["services"]["decode"]["depends_on"]["keys"] = {"condition": "service_done"}
    (broken := tmp_path / "compose.json").write_text(json.dumps(wrong))
    with pytest.raises(AssertionError, match="service_done"):
        run(*VALIDATE, str(broken))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_told_only_what_it_takes(role: str) -> None:
    known = {f"TANDEM_{name.upper()}" for name in ROLES[role].model_fields}
    for path in (COMPOSE, COMPOSE_GPU):
        told = services(path).get(role, {}).get("environment", {})
        assert {name for name in told if name.startswith("TANDEM_")} <= known


@pytest.mark.parametrize("role", ROLES)
def test_a_container_is_its_role(role: str) -> None:
    assert services(COMPOSE)[role]["command"] == ["tandem", role]


@pytest.mark.parametrize("role", WORKERS)
def test_workers_are_guarded(role: str, clean: pytest.MonkeyPatch) -> None:
    config = configured(role, clean)
    check_exposure(config)
    assert not config.insecure
    assert not is_local(config.listen)
    assert all((config.tls_cert, config.tls_key, config.tls_ca, config.kv_key, config.kv_peers))
    assert role == "prefill" or not is_local(config.kv_listen)


def test_the_frontend_is_guarded_and_reaches_its_workers(clean: pytest.MonkeyPatch) -> None:
    config = configured("frontend", clean)
    assert not config.insecure
    assert all((config.worker_cert, config.worker_key, config.worker_ca))
    check_guarded(f"{config.host}:{config.http_port}", guarded=bool(config.api_keys), insecure=False, how="keys")
    for role in WORKERS:
        (address,) = getattr(config, role)
        name, _, port = address.removeprefix("dns:///").partition(":")
        listens = environment(services(COMPOSE)[role])["TANDEM_LISTEN"]
        assert (name, port) == (role, listens.rpartition(":")[2])


def test_without_prefill_workers_none_is_looked_for(clean: pytest.MonkeyPatch) -> None:
    told = {"PREFILL": "0", "PREFILL_ADDRESS": ""}
    assert configured("frontend", clean, **told).prefill == ()
    assert services(COMPOSE, **told)["prefill"]["deploy"]["replicas"] == "0"


@pytest.mark.parametrize(("variable", "role"), [("PREFILL", "prefill"), ("DECODE", "decode")])
def test_one_variable_scales_a_role(variable: str, role: str) -> None:
    assert services(COMPOSE)[role]["deploy"]["replicas"] == "1"
    assert services(COMPOSE, **{variable: "3"})[role]["deploy"]["replicas"] == "3"


@pytest.mark.parametrize("role", WORKERS)
def test_on_a_gpu(role: str, clean: pytest.MonkeyPatch) -> None:
    config = configured(role, clean, COMPOSE, COMPOSE_GPU)
    check_exposure(config)
    assert config.device == "cuda"
    assert config.device_memory_share * 2 <= 1
    assert "kv_memory_mb" not in config.model_fields_set, "it would not take what is left of the GPU"
    gpu = services(COMPOSE_GPU)[role]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["0"]
    assert gpu["build"]["args"]["EXTRAS"] == "[gpu]"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_its_own_keys_and_cannot_write_them(role: str) -> None:
    service = services(COMPOSE)[role]
    keys = [volume for volume in service["volumes"] if "-keys:" in volume]
    assert keys == [f"{role}-keys:/keys/own:ro"]
    named = {value for name, value in environment(service).items() if value.startswith("/keys/")}
    assert len(named) == (4 if role == "frontend" else 5)
    assert all(value.startswith("/keys/own/") for value in named)
    assert f"{role}-keys:/keys/{role}" in services(COMPOSE)["keys"]["volumes"]


@pytest.mark.parametrize("role", [*ROLES, "keys"])
def test_containers_of_tandem_have_no_more_rights_than_they_need(role: str) -> None:
    service = services(COMPOSE)[role]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "user", "pid", "ipc"} & set(service)
    assert "cache:/var/cache/tandem" in service["volumes"], "kernels can be kept nowhere else"


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in services(COMPOSE).values() for port in service.get("ports", ())]
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("ports" in services(COMPOSE)[role] for role in WORKERS)


def test_everything_waits_for_the_keys_and_the_frontend_is_drained_first() -> None:
    for role in ROLES:
        depends = services(COMPOSE)[role]["depends_on"]
        assert depends["keys"]["condition"] == "service_completed_successfully"
        assert set(WORKERS) <= set(depends) or role in WORKERS
        grace_s = int(services(COMPOSE)[role]["stop_grace_period"].removesuffix("s"))
        assert grace_s > ROLES[role].model_fields["drain_timeout_s"].default


def test_what_is_mounted_and_named_is_there() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    for service in services(COMPOSE).values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() or source in document["volumes"] or source == "./models"
    used = {volume.split(":")[0] for service in services(COMPOSE).values() for volume in service.get("volumes", ())}
    assert set(document["volumes"]) <= used
    assert (DEPLOY / services(COMPOSE)["frontend"]["build"]["context"]).resolve() == ROOT


def test_variables_are_explained_where_they_are_used() -> None:
    for path in (COMPOSE, COMPOSE_GPU):
        text = path.read_text()
        head = text[: text.index("\nx-")]
        assert set(re.findall(r"\$\{(\w+)", text)) <= set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", head))


def test_what_watches_finds_what_it_watches() -> None:
    there = services(COMPOSE)
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert (job["job_name"], found["names"], found["port"]) == ("tandem", ["frontend"], 8000)
    assert found["port"] == FrontendConfig.model_fields["http_port"].default
    assert any(volume.startswith("./prometheus:/etc/prometheus") for volume in there["prometheus"]["volumes"])
    assert "--config.file=/etc/prometheus/prometheus.yaml" in there["prometheus"]["command"]

    sources = yaml.safe_load((PROVISIONING / "datasources" / "tandem.yaml").read_text())["datasources"]
    for source in sources:
        host, port = source["url"].removeprefix("http://").split(":")
        assert any(published.endswith(f":{port}") for published in there[host]["ports"])

    jaeger = yaml.safe_load((DEPLOY / "jaeger" / "config.yaml").read_text())
    otlp = jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    for role in ROLES:
        assert environment(there[role])["TANDEM_OTLP_ENDPOINT"] == f"http://jaeger:{otlp}"
    assert set(jaeger["service"]["extensions"]) == set(jaeger["extensions"])
    (pipeline,) = jaeger["service"]["pipelines"].values()
    assert all(set(pipeline[part]) == set(jaeger[part]) for part in ("receivers", "processors", "exporters"))
