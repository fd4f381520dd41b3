from pathlib import Path

import pytest

from cli.deployment import Deployment
from cli.process import ProcessSpec
from engine.config import WorkerConfig
from engine.source import Source, sources
from frontend.config import FrontendConfig, by_model
from frontend.mounts import Mount, parse_mounts

FOLDER = Path("/run/tandem-x")


def processes(deployment: Deployment) -> dict[str, ProcessSpec]:
    return {spec.name: spec for spec in deployment.processes(FOLDER)}


def arguments(spec: ProcessSpec) -> list[str]:
    role = spec.name.partition("-")[0]
    marker = spec.command.index("-m")
    assert spec.command[marker + 1] == role
    return list(spec.command[marker + 2 :])


def worker_config(spec: ProcessSpec) -> WorkerConfig:
    return WorkerConfig(_cli_parse_args=arguments(spec))


def frontend_config(spec: ProcessSpec) -> FrontendConfig:
    return FrontendConfig(_cli_parse_args=arguments(spec))


def test_every_process_understands_its_options() -> None:
    deployment = Deployment(
        http_port=8001,
        grpc_port=50052,
        prefill=2,
        decode=1,
        models=[Source("m", "/models/m")],
        shared={"log_level": "warning", "otlp_endpoint": None},
        worker={"dtype": "float32", "threads": 2, "num_blocks": 64, "max_context": None},
        frontend={"chat_template": "t.jinja"},
        drain_timeout_s=3.0,
    )
    specs = processes(deployment)
    assert list(specs) == ["prefill-0", "prefill-1", "decode-0", "frontend"]

    decode = worker_config(specs["decode-0"])
    assert decode.worker_id == "decode-0"
    assert decode.listen == f"unix:{FOLDER}/decode-0.sock"
    assert decode.kv_listen == f"ipc://{FOLDER}/decode-0.kv"
    assert (decode.model, decode.dtype, decode.threads, decode.num_blocks) == ("/models/m", "float32", 2, 64)
    assert (decode.niceness, worker_config(specs["prefill-1"]).niceness) == (0, 5)
    assert decode.drain_timeout_s == 3.0
    assert decode.watch_folders.split(",")[0] == str(FOLDER)

    frontend = frontend_config(specs["frontend"])
    assert frontend.prefill == (f"unix:{FOLDER}/prefill-0.sock", f"unix:{FOLDER}/prefill-1.sock")
    assert frontend.decode == (decode.listen,)
    assert frontend.watch_folders == tuple(decode.watch_folders.split(","))
    assert (frontend.http_port, frontend.grpc_port) == (8001, 50052)
    assert (frontend.model, frontend.served_model_name) == (("/models/m",), "m")
    assert (frontend.chat_template, frontend.log_level) == ("t.jinja", "warning")


def test_each_model_has_workers_of_its_own() -> None:
    models = [Source("big", "/models/llama"), Source("tandem-demo", ""), Source("org/small", "/models/a=b")]
    deployment = Deployment(
        http_port=1,
        grpc_port=2,
        decode=2,
        models=models,
        worker={"device": "cuda"},
        frontend={
            "fallback": ["big=org/small,tandem-demo", "org/small=tandem-demo"],
            "model_aliases": ["tandem-demo=tiny"],
        },
    )
    specs = processes(deployment)
    assert list(specs) == [*(f"prefill-{i}" for i in range(3)), *(f"decode-{i}" for i in range(6)), "frontend"]
    workers = {name: worker_config(spec) for name, spec in specs.items() if name != "frontend"}
    served = {name: (each.model, each.served_model_name) for name, each in workers.items()}
    big, demo, small = ("/models/llama", "big"), ("", "tandem-demo"), ("/models/a=b", "org/small")
    assert list(served.values()) == [big, demo, small, big, big, demo, demo, small, small]
    assert {worker.device_memory_share for worker in workers.values()} == {0.1111}

    frontend = frontend_config(specs["frontend"])
    assert frontend.model == ("big=/models/llama", "tandem-demo=", "org/small=/models/a=b")
    assert sources(frontend.model) == models
    assert frontend.decode == tuple(workers[f"decode-{i}"].listen for i in range(6))
    names = [source.name for source in models]
    assert by_model(frontend.fallback, names, "fallback") == {
        "big": ("org/small", "tandem-demo"),
        "tandem-demo": (),
        "org/small": ("tandem-demo",),
    }
    assert by_model(frontend.model_aliases, names, "model_aliases")["tandem-demo"] == ("tiny",)


def test_mounts_are_the_frontends_and_have_their_urls() -> None:
    mounts = (Mount("ollama", 11434), Mount("anthropic", prefix="/as/claude"))
    deployment = Deployment(http_port=8001, grpc_port=50052, mounts=mounts, frontend={"tls_cert": "a.pem"})
    told = frontend_config(processes(deployment)["frontend"]).mount
    assert parse_mounts(told, {}) == mounts
    urls = ["https://127.0.0.1:11434", "https://127.0.0.1:8001/as/claude"]
    assert [deployment.url_of(mount) for mount in mounts] == urls


def test_cpus_are_shared_out_among_the_workers_of_a_role() -> None:
    cpus = {"prefill": (0, 1, 2, 5), "decode": (3,)}
    specs = processes(Deployment(http_port=1, grpc_port=2, prefill=2, decode=2, cpus=cpus))
    assert [worker_config(specs[f"prefill-{i}"]).cpus for i in range(2)] == ["0-1", "2,5"]
    assert [worker_config(specs[f"decode-{i}"]).cpus for i in range(2)] == ["3", "3"]
    assert frontend_config(specs["frontend"]).cpus == ""
    pinned = processes(Deployment(http_port=1, grpc_port=2, cpus={"frontend": (1,)}))
    assert frontend_config(pinned["frontend"]).cpus == "1"


def test_who_borrows_is_told_whose_and_everybody_keeps_the_board() -> None:
    cpus = {"prefill": (0, 1), "decode": (2,)}
    specs = processes(Deployment(http_port=1, grpc_port=2, prefill=2, cpus=cpus, borrowers=("prefill",)))
    prefill, decode = worker_config(specs["prefill-1"]), worker_config(specs["decode-0"])
    assert (prefill.cpus, prefill.borrow_cpus) == ("1", "2")
    assert (decode.cpus, decode.borrow_cpus) == ("2", "")
    assert prefill.cpu_board == decode.cpu_board == str(FOLDER / "cpus")
    alone = processes(Deployment(http_port=1, grpc_port=2, prefill=1, cpus=cpus))
    assert worker_config(alone["prefill-0"]).cpu_board == ""


def test_workers_of_several_processes() -> None:
    cpus = {"prefill": (0, 1), "decode": (2, 3)}
    deployment = Deployment(
        http_port=1, grpc_port=2, cpus=cpus, borrowers=["prefill"], ranks={"prefill": 1, "decode": 4}
    )
    specs = processes(deployment)
    prefill, decode = worker_config(specs["prefill-0"]), worker_config(specs["decode-0"])
    assert (prefill.tensor_parallel, decode.tensor_parallel) == (1, 4)
    assert (prefill.borrow_cpus, decode.borrow_cpus) == ("2-3", ""), "their CPUs can be lent like any other's"


def test_the_frontend_drains_before_the_workers_it_needs() -> None:
    stages = {name: spec.drain_stage for name, spec in processes(Deployment(http_port=1, grpc_port=2)).items()}
    assert stages == {"prefill-0": 1, "decode-0": 1, "frontend": 0}


def test_without_prefill_workers_it_is_one_unified_server() -> None:
    specs = processes(Deployment(http_port=1, grpc_port=2, prefill=0))
    assert list(specs) == ["decode-0", "frontend"]
    assert frontend_config(specs["frontend"]).prefill == ()


@pytest.mark.parametrize(("prefill", "share"), [(2, 0.3333), (1, 0.5), (0, 1.0)])
def test_workers_on_a_gpu_share_its_memory(prefill: int, share: float) -> None:
    specs = processes(Deployment(http_port=1, grpc_port=2, prefill=prefill, worker={"device": "cuda:1"}))
    workers = [worker_config(spec) for name, spec in specs.items() if name != "frontend"]
    assert [(worker.device, worker.device_memory_share) for worker in workers] == [("cuda:1", share)] * (prefill + 1)


def test_workers_on_cpus_are_told_nothing_of_a_gpu() -> None:
    for spec in processes(Deployment(http_port=1, grpc_port=2, worker={"device": "cpu"})).values():
        assert "--device-memory-share" not in spec.command


def test_blocks_can_travel_over_tcp() -> None:
    specs = processes(Deployment(http_port=1, grpc_port=2, transport="tcp"))
    assert worker_config(specs["decode-0"]).kv_listen == "tcp://127.0.0.1:0"


def test_the_key_is_in_the_environment_of_the_frontend_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_API_KEY", raising=False)
    specs = processes(Deployment(http_port=1, grpc_port=2, api_key="k3y"))
    assert specs["frontend"].environment["TANDEM_API_KEY"] == "k3y"
    assert "TANDEM_API_KEY" not in specs["decode-0"].environment
    assert not any("k3y" in part for spec in specs.values() for part in spec.command)


@pytest.mark.parametrize(
    ("host", "url", "grpc"),
    [
        ("127.0.0.1", "http://127.0.0.1:80", "127.0.0.1:81"),
        ("0.0.0.0", "http://127.0.0.1:80", "127.0.0.1:81"),
        ("::", "http://[::1]:80", "[::1]:81"),
    ],
)
def test_addresses_are_those_that_a_client_on_this_machine_uses(host: str, url: str, grpc: str) -> None:
    deployment = Deployment(host=host, http_port=80, grpc_port=81)
    assert (deployment.http_url, deployment.grpc_address) == (url, grpc)


def test_with_tls_the_frontend_is_asked_over_a_socket_of_its_own() -> None:
    files = {"tls_cert": "c.pem", "tls_key": "k.pem", "tls_ca": "ca.pem"}
    deployment = Deployment(http_port=80, grpc_port=81, frontend=files)
    frontend = frontend_config(processes(deployment)["frontend"])
    assert (frontend.tls_cert, frontend.tls_key, frontend.tls_ca) == ("c.pem", "k.pem", "ca.pem")
    assert frontend.local_listen == f"unix:{FOLDER}/frontend.sock"
    assert "frontend.sock" in deployment.socket_names()
    assert (deployment.http_url, deployment.grpc_url) == ("https://127.0.0.1:80", "grpcs://127.0.0.1:81")
    assert frontend_config(processes(Deployment(http_port=80, grpc_port=81))["frontend"]).local_listen == ""
