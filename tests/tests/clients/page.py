"""Does what the lines of docs/clients.md ask grpcurl for, one after the other, as grpcurl does it: by reflection.

    page.py PAGE ADDRESS RUN

ADDRESS is a coordinator's in plain text; RUN takes the place of that word. One line of JSON for each command.
"""
import json
import shlex
import sys
from pathlib import Path

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

STATES = 2  # of a stream, as somebody would look at it before Ctrl-C


def call(channel, pool, name, text):
    service, _, method = name.rpartition("/")
    method = pool.FindServiceByName(service).methods_by_name[method]
    request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    answer = kind(f"/{name}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString)(
        json_format.Parse(text, request())
    )
    if not method.server_streaming:
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)
    states = [json_format.MessageToDict(next(answer), preserving_proto_field_name=True) for _ in range(STATES)]
    answer.cancel()
    return states


def obey(channel, words):
    assert words.pop(0) == "-plaintext", words
    text = "{}"
    if words[0] == "-d":
        text, words = words[1], words[2:]
    _, verb, *rest = words  # the first is where the coordinator of somebody else's run is
    database = ProtoReflectionDescriptorDatabase(channel)
    if verb == "list":
        return list(database.get_services())
    pool = DescriptorPool(database)
    if verb == "describe":
        return [field.name for field in pool.FindMessageTypeByName(rest[0]).fields]
    return call(channel, pool, verb, text)


def main(page, address, run):
    channel = grpc.insecure_channel(address)
    for line in Path(page).read_text().splitlines():
        if line.startswith("    grpcurl -plaintext"):
            words = shlex.split(line.replace('"RUN"', f'"{run}"'), comments=True)
            print(json.dumps([words[-1], obey(channel, words[1:])]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
