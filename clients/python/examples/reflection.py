"""Calls any method of a server that it has never heard of, by reflection, with JSON in and out.

    python reflection.py [HOST:PORT [METHOD [JSON]]]

Needs grpcio-reflection. It is what tools like grpcurl do; nothing here is generated.
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, Parse
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

QUESTION = '{"chat": {"messages": [{"role": "user", "content": "What is decode?"}]}, "sampling": {"temperature": 0}}'
DEFAULTS = ["127.0.0.1:50051", "tandem.v1.Inference/Generate", QUESTION]

address, method, asked = [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]]
with grpc.insecure_channel(address) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    print("services:", *database.get_services(), file=sys.stderr)
    service, _, name = method.partition("/")
    described = DescriptorPool(database).FindServiceByName(service).FindMethodByName(name)
    make = channel.unary_stream if described.server_streaming else channel.unary_unary
    call = make(
        f"/{method}",
        request_serializer=GetMessageClass(described.input_type).SerializeToString,
        response_deserializer=GetMessageClass(described.output_type).FromString,
    )
    answer = call(Parse(asked, GetMessageClass(described.input_type)()), timeout=60)
    for message in answer if described.server_streaming else [answer]:
        print(MessageToJson(message, preserving_proto_field_name=True, indent=None))
