# SPDX-License-Identifier: Apache-2.0
"""A client that takes a stream's responses when it is told to, and says what they are like.

Runs as an unprivileged user, started by a test. Prints {"pid": N} and then answers each line:

    {"begin": REQUEST}      a StreamPageFlagsRequest in hexadecimal; other calls stay
        -> {}
    {"compare": REQUEST}    the same with a ComparePagesRequest
        -> {}
    {"take": N, "index": N} of the call so numbered, from 0
        -> {"taken": [[ADDRESS, COUNT, LISTED, [STATE, ...]], ...], "failure": [CODE, DETAILS] or
            null}           which states there are; fewer than N at the end
    {"cancel": N}           the call so numbered
        -> {}

Usage: stream_reader.py SOCKET_PATH
"""

import itertools
import json
import os
import sys
from typing import Any

import grpc
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc

SECONDS = 60.0


def take(call: Any, most: int) -> dict[str, Any]:
    """Return what the next responses of a call are like, and how it failed if it did."""
    taken = []
    try:
        for response in itertools.islice(call, most):
            states = sorted(map(pageflags_pb2.PageState.Name, set(response.state)))
            taken.append([response.address, response.count, len(response.state), states])
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        details = trailing.get("grpc-status-details-bin", b"")
        return {"taken": taken, "failure": [error.code().value[0], details.hex()]}
    return {"taken": taken, "failure": None}


def main(path: str) -> None:
    """Answer lines until there are no more."""
    channel = grpc.insecure_channel(f"unix:{path}", [("grpc.default_authority", "localhost")])
    stub = pageflags_pb2_grpc.PageFlagsServiceStub(channel)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    calls: list[Any] = []
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        match json.loads(line):
            case {"begin": request}:
                parsed = pageflags_pb2.StreamPageFlagsRequest.FromString(bytes.fromhex(request))
                calls.append(stub.StreamPageFlags(parsed, timeout=SECONDS))
            case {"compare": request}:
                wanted = pageflags_pb2.ComparePagesRequest.FromString(bytes.fromhex(request))
                calls.append(stub.ComparePages(wanted, timeout=SECONDS))
            case {"take": most, "index": index}:
                answer = take(calls[index], most)
            case {"cancel": index}:
                calls[index].cancel()
        print(json.dumps(answer), flush=True)
    for call in calls:
        call.cancel()


if __name__ == "__main__":
    main(*sys.argv[1:])
