"""deploy/nginx and deploy/envoy agree with what they are before; nginx and Envoy themselves are not asked."""

import re

import pytest
import yaml

from frontend.__main__ import KEEP_ALIVE_S
from frontend.config import FrontendConfig
from protos import generate_pb2, open_inference_pb2
from tests.edge.frontends import MAX_BODY_BYTES
from tests.edge.proxies import ENVOY_YAML, NGINX_CONF

NGINX = NGINX_CONF.read_text()
ENVOY = yaml.safe_load(ENVOY_YAML.read_text())


def test_the_first_frontend_is_where_frontends_are_by_default() -> None:
    fields = FrontendConfig.model_fields
    for name in ("http_port", "grpc_port"):
        assert f"server 127.0.0.1:{fields[name].default} " in NGINX
        assert f"port_value: {fields[name].default} }}" in ENVOY_YAML.read_text()


def test_proxies_let_go_of_idle_connections_before_frontends_do() -> None:
    (nginx,) = re.findall(r"^    keepalive_timeout (\d+)s;", NGINX, re.MULTILINE)
    rest = next(each for each in ENVOY["static_resources"]["clusters"] if each["name"] == "tandem_rest")
    (protocol,) = rest["typed_extension_protocol_options"].values()
    envoy = protocol["common_http_protocol_options"]["idle_timeout"].removesuffix("s")
    assert int(nginx) < KEEP_ALIVE_S
    assert int(envoy) < KEEP_ALIVE_S


def test_a_body_that_tandem_takes_passes() -> None:
    assert "client_max_body_size 17m;" in NGINX
    (listener,) = ENVOY["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    assert MAX_BODY_BYTES < 17 << 20 == host["request_body_buffer_limit"]


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{generate_pb2.DESCRIPTOR.package}.Inference/{name}" for name in ("Generate", "ListModels")),
        f"/{open_inference_pb2.DESCRIPTOR.package}.GRPCInferenceService/ModelStreamInfer",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_nginx_knows_our_services_by_their_paths(path: str) -> None:
    (pattern,) = re.findall(r"location ~ (\S+) {", NGINX)
    assert re.match(pattern, path)
    assert not re.match(pattern, f"/v1{path}")
