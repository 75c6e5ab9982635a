"""Follows a run: one line at each change, until it ends.

    pip install -r examples/clients/requirements.txt
    python examples/clients/watch.py 127.0.0.1:PORT [RUN]                          # a local run
    python examples/clients/watch.py HOST:7300 [RUN] --ca certs/observer/ca.pem --token TOKEN

The coordinator describes its own messages (gRPC reflection), so nothing is generated and nothing goes stale.
"""
import argparse
import sys
import time

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "retort.v1.Status"
NAME = "fleet.retort"  # that every certificate of a fleet is for
ENDS = {"done", "failed", "stopped"}


def connect(address, ca=None, token=None):
    if ca is None:
        return grpc.insecure_channel(address)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    if token:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", NAME)])


class Status:
    """Calls of the service by name: `status.GetRun(run="...")`; streams are iterators."""

    def __init__(self, channel):
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.channel, self.methods = channel, pool.FindServiceByName(SERVICE).methods_by_name

    def __getattr__(self, name):
        method = self.methods[name]
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = kind(
            f"/{SERVICE}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return lambda **fields: call(request(**fields))


def line(run):
    parts = [f"{run.age_s:8.1f} s  {run.run} {run.state}"]
    for group in run.groups:
        done, last = group.ledger.total_committed, group.last
        accuracy = f", {100 * group.held_out.accuracy:.1f} %" if group.HasField("held_out") else ""
        loss = f", KL {last.kl:.3f}" if last.HasField("kl") else ""
        parts.append(f"{group.name}: epoch {min(group.epoch + 1, group.epochs)}/{group.epochs}, {done} committed{loss}{accuracy}")
    return " | ".join(parts)


def follow(status, run, pause=1.0):
    """A stream that breaks is opened again where it was: no state is printed twice."""
    seen = 0
    while True:
        try:
            for state in status.WatchRun(run=run, since_revision=seen, max_per_s=1.0, brief=True):
                run, seen = state.run, state.revision
                print(line(state), flush=True)
                if state.state in ENDS:
                    return state
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            print(f"{error.details()}: again in {pause:.0f} s", file=sys.stderr)
        time.sleep(pause)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="the coordinator, HOST:PORT")
    parser.add_argument("run", nargs="?", default="", help="its id; the newest unless given")
    parser.add_argument("--ca", help="ca.pem of the fleet, where it encrypts")
    parser.add_argument("--token", help="a status token (retort certs token ... --status)")
    args = parser.parse_args()
    try:
        state = follow(Status(connect(args.address, args.ca, args.token)), args.run)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    sys.exit(0 if state.state == "done" else f"{state.state}: {state.reason}")


if __name__ == "__main__":
    main()
