"""Does what the lines of docs/clients.md ask grpcurl for, one after the other, as grpcurl does it: by reflection.

    page.py PAGE ADDRESS RUN                  the lines in plain text
    page.py PAGE ADDRESS RUN CERTS TOKEN      the encrypted ones

ADDRESS is a coordinator's; RUN takes the place of that word, CERTS that of the folder `certs`, TOKEN that of the variable. One line
of JSON for each command.
"""
import argparse
import json
import re
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


def options(words):
    """What grpcurl takes, as far as the page uses it."""
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true")
    parser.add_argument("-d", default="{}")
    parser.add_argument("-H", default="")
    for name in ["-cacert", "-cert", "-key", "-servername"]:
        parser.add_argument(name)
    parser.add_argument("address")  # where the coordinator of somebody else's run is
    parser.add_argument("verb")
    parser.add_argument("rest", nargs="*")
    return parser.parse_args(words)


def connect(address, asked):
    if asked.plaintext:
        return grpc.insecure_channel(address)
    read = lambda path: Path(path).read_bytes() if path else None
    credentials = grpc.ssl_channel_credentials(read(asked.cacert), read(asked.key), read(asked.cert))
    if asked.H:
        name, _, value = asked.H.partition(": ")
        assert name == "authorization", asked.H
        bearer = grpc.access_token_call_credentials(value.removeprefix("Bearer "))
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", asked.servername)])


def obey(address, words):
    asked = options(words)
    channel = connect(address, asked)
    database = ProtoReflectionDescriptorDatabase(channel)
    if asked.verb == "list":
        return list(database.get_services())
    pool = DescriptorPool(database)
    if asked.verb == "describe":
        return [field.name for field in pool.FindMessageTypeByName(asked.rest[0]).fields]
    return call(channel, pool, asked.verb, asked.d)


def main(page, address, run, certs=None, token=None):
    variables = {"TOKEN": token}
    for line in Path(page).read_text().splitlines():
        line = line.replace('"RUN"', f'"{run}"')
        if assigned := re.fullmatch(r'    (\w+)="(.*)"', line):
            paths = re.sub(r"(?<= )(certs/|(?=ca\.pem))", f"{certs}/", assigned[2])
            variables[assigned[1]] = paths
        elif line.startswith("    grpcurl ") and ("-plaintext" in line) == (certs is None):
            line = re.sub(r"\$(\w+)", lambda variable: variables[variable[1]], line)
            words = shlex.split(line, comments=True)
            print(json.dumps([words[-1], obey(address, words[1:])]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
