# SPDX-License-Identifier: Apache-2.0
"""A gRPC server on a plain Unix socket whose one call does nothing: the least that a call costs.

Runs as an ordinary user, started by `stage.py`. Prints {} when it serves, and ends with its
standard input.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

THREADS = 4
"""As many as a worker of cowd has."""


class Noop(grpc.GenericRpcHandler):
    """Answers every call with nothing."""

    def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


def main() -> None:
    """Serve at the socket that the argument names."""
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=[Noop()])
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    server.start()
    print(json.dumps({}), flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
