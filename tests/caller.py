# SPDX-License-Identifier: Apache-2.0
"""A client of cowd that knows nothing of cowd's library: lines of JSON in, raw gRPC calls out.

Runs as an unprivileged user, started by a test. Prints {"pid": N} and then answers each line:

    {"method": PATH, "request": HEX, "timeout": SECONDS, "wait": whether for a server,
     "metadata": [[KEY, VALUE], ...]}
        -> {"responses": [HEX], "raw": HEX, "seconds": N}
        or {"code": N, "message": TEXT, "details": HEX, "raw": HEX, "seconds": N}
    {..., "most": N}                    a call whose response is a stream: cancelled after N of them
        -> {"responses": [HEX, ...], "seconds": N}
        or a failure as above
    {"create": KIND, "arguments": [TEXT, ...]}
        -> what subjects.py says of pages of that kind, now this process's own

"raw" is all that the server said beside the response: message and metadata.

With a descriptor, which is a connection that somebody else made, calls go through that one:
SOCKET_PATH is then made here, and what comes to it relayed.
"""

import argparse
import itertools
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

DETAILS_KEY = "grpc-status-details-bin"
COPY_BYTES = 65_536


class Client:
    """A connection, made when first used: before that, this process may fork."""

    def __init__(self, path: str, authority: str) -> None:
        self._path = path
        self._authority = authority
        self._channel: Any = None

    def call(self, order: dict[str, Any]) -> dict[str, Any]:
        """Make one call and return the answer's line."""
        import grpc  # it starts threads: what `create` forks must come before

        if self._channel is None:
            arguments = [
                ("grpc.default_authority", self._authority),
                ("grpc.max_receive_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 20_000),  # how long connecting may take
                ("grpc.max_reconnect_backoff_ms", 200),
            ]
            self._channel = grpc.insecure_channel(f"unix:{self._path}", arguments)
        most = order.get("most")
        make = self._channel.unary_unary if most is None else self._channel.unary_stream
        request = bytes.fromhex(order["request"])
        options = {
            "timeout": order["timeout"],
            "wait_for_ready": order["wait"],
            "metadata": order["metadata"],
        }
        start = time.monotonic()
        try:
            if most is None:
                response, ended = make(order["method"]).with_call(request, **options)
                responses = [response]
            else:
                ended = make(order["method"])(request, **options)
                responses = list(itertools.islice(ended, most))
                ended.cancel()  # of no effect on a call that has ended
        except grpc.RpcError as error:
            trailing = [(key, _to_bytes(value)) for key, value in error.trailing_metadata() or ()]
            return {
                "code": error.code().value[0],
                "message": error.details() or "",
                "details": dict(trailing).get(DETAILS_KEY, b"").hex(),
                "raw": _join(error).hex(),
                "seconds": time.monotonic() - start,
            }
        seconds = time.monotonic() - start
        return {
            "responses": [response.hex() for response in responses],
            "raw": _join(ended).hex(),
            "seconds": seconds,
        }


def _join(ended: Any) -> bytes:
    """Return all that the server said of a call that has ended, beside the response."""
    parts = [(ended.details() or "").encode()]
    for metadata in ended.initial_metadata(), ended.trailing_metadata():
        parts += [_to_bytes(part) for pair in metadata or () for part in pair]
    return b"\n".join(parts)


def _to_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def relay(listener: socket.socket, connection: socket.socket) -> None:
    """Join the first connection to `listener` and `connection` until both have ended."""
    client, _ = listener.accept()
    listener.close()
    there = threading.Thread(target=copy_bytes, args=(client, connection), daemon=True)
    there.start()
    copy_bytes(connection, client)
    there.join()


def copy_bytes(source: socket.socket, sink: socket.socket) -> None:
    """Copy what comes from `source` to `sink`, and then its end."""
    try:
        while part := source.recv(COPY_BYTES):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side has gone; its thread says so to its peer


def main() -> None:
    """Answer lines until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("socket_path")
    parser.add_argument("--descriptor", type=int, help="of a connection to make the calls on")
    parser.add_argument("--authority", default="localhost", help="what to say the server is")
    options = parser.parse_args()
    if options.descriptor is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options.socket_path)
        listener.listen()
        connection = socket.socket(fileno=options.descriptor)
        threading.Thread(target=relay, args=(listener, connection), daemon=True).start()
    client = Client(options.socket_path, options.authority)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "create" in order:
            sys.path.append(str(Path(__file__).parent / "kernel"))
            import subjects

            answer = subjects.create(order["create"], order["arguments"])
        else:
            answer = client.call(order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
