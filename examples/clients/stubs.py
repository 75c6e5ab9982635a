"""Prints the runs that a coordinator knows, by stubs generated from its protocol.

    pip install -r examples/clients/requirements.txt
    mkdir stubs
    python -m grpc_tools.protoc -I proto/proto --python_out=stubs --grpc_python_out=stubs proto/proto/retort/v1/*.proto
    PYTHONPATH=stubs python examples/clients/stubs.py 127.0.0.1:PORT
"""
import sys

import grpc
from retort.v1 import status_pb2, status_pb2_grpc


def main(address):
    status = status_pb2_grpc.StatusStub(grpc.insecure_channel(address))
    for run in status.ListRuns(status_pb2.ListRunsRequest()).runs:
        durable = sum(group.ledger.total_committed for group in run.groups)
        print(f"{run.run} {run.state}, {durable} samples are durable")


if __name__ == "__main__":
    main(sys.argv[1])
