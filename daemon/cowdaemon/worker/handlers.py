# SPDX-License-Identifier: Apache-2.0
"""From a call's bytes to its answer's, and from what an answer raises to a gRPC status.

Worker, unprivileged. One wrapper gives every failure a status with a stable reason; what is not
expected becomes INTERNAL, with the detail in the log and not in the answer.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import grpc
from cowproto.v1 import twins_pb2 as twins
from google.protobuf.message import DecodeError, Message

from cowdaemon.errors import DOMAIN, Code, CowdError, Reason
from cowdaemon.limits import ANSWERS_UNREAD, RETRY_SECONDS

__all__ = ["Answer", "Handlers", "StreamedAnswer", "fail"]

_log: Final = logging.getLogger(__name__)

_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Answer = Callable[[Any], Message]
"""Returns the response to a request."""
StreamedAnswer = Callable[[Any, Callable[[], None]], Iterator[Message]]
"""Yields the responses to a request. Its second argument is to be called before each part of the
work: that raises once nobody waits for more."""


class _CallEndedError(Exception):
    """The caller has cancelled the call, has gone, or gave it no more time."""


class Handlers(grpc.GenericRpcHandler):
    """What answers calls, by path: with one response, or with a stream of them."""

    def __init__(
        self,
        calls: dict[str, tuple[type[Message], Answer]],
        streams: dict[str, tuple[type[Message], StreamedAnswer]],
    ) -> None:
        self._calls = calls
        self._streams = streams
        self._unread = threading.Semaphore(ANSWERS_UNREAD)
        self._working_since: dict[int, float] = {}
        self._under_way = 0
        self._changed = threading.Condition()

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Return the handler of one call, or None: gRPC answers UNIMPLEMENTED."""
        method = details.method
        if method in self._calls:
            return self._make_unary_handler(method, *self._calls[method])
        if method in self._streams:
            return self._make_stream_handler(method, *self._streams[method])
        return None

    def longest_work_seconds(self) -> float:
        """Return how long the call that stands still has done so, of all that are worked on."""
        now = time.monotonic()
        return max((now - since for since in list(self._working_since.values())), default=0.0)

    def await_idle(self, work_seconds: float, reading_seconds: float) -> None:
        """Return when all calls have been answered and their answers read, or after so long.

        Args:
            work_seconds: for what is worked on.
            reading_seconds: after that, for clients to read; they might never do so.
        """
        with self._changed:
            if self._changed.wait_for(lambda: not self._working_since, work_seconds):
                self._changed.wait_for(lambda: not self._under_way, reading_seconds)

    def _count(self, context: grpc.ServicerContext) -> None:
        """Count a call until gRPC is rid of it: its status is sent, or its client has gone."""
        with self._changed:
            self._under_way += 1
        if not context.add_callback(self._end_one):
            self._end_one()  # it has ended already

    def _end_one(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._note_progress()
        try:
            yield
        finally:
            with self._changed:
                del self._working_since[threading.get_ident()]
                self._changed.notify_all()

    def _note_progress(self) -> None:
        self._working_since[threading.get_ident()] = time.monotonic()

    def _make_unary_handler(
        self, method: str, request_type: type[Message], answer: Answer
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            self._count(context)
            with _failing_as_status(method, context), self._working():
                self._verify_read(context)
                return answer(_decode(request_type, request)).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(handle)

    def _make_stream_handler(
        self, method: str, request_type: type[Message], answer: StreamedAnswer
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        def handle(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            def verify_wanted() -> None:
                self._note_progress()
                if not context.is_active():
                    raise _CallEndedError

            self._count(context)
            with _failing_as_status(method, context):
                responses = answer(_decode(request_type, request), verify_wanted)
                while True:
                    with self._working():
                        response = next(responses, None)
                    if response is None:
                        return
                    yield response.SerializeToString()

        return grpc.unary_stream_rpc_method_handler(handle)

    def _verify_read(self, context: grpc.ServicerContext) -> None:
        """Count one more answer until gRPC is rid of it; raise if its clients leave too many."""
        if not self._unread.acquire(blocking=False):
            raise CowdError(Reason.TOO_MANY_UNREAD_ANSWERS)
        if not context.add_callback(self._unread.release):
            self._unread.release()  # the call has ended already


@contextmanager
def _failing_as_status(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
    except CowdError as error:
        fail(context, error)
    except _CallEndedError:
        pass  # nobody reads a status
    except Exception:  # noqa: BLE001 - the one place: INTERNAL, detail to the log
        _log.exception("%s failed", method)
        fail(context, CowdError(Reason.INTERNAL_ERROR))


def _decode(request_type: type[Message], request: bytes) -> Message:
    try:
        return request_type.FromString(request)
    except DecodeError as error:
        raise CowdError(Reason.MALFORMED_REQUEST) from error


def fail(context: grpc.ServicerContext, error: CowdError) -> NoReturn:
    """End a call with the status and the details of an error."""
    reason = error.reason
    status = twins.Status(code=reason.code, message=str(error))
    info = twins.ErrorInfo(reason=reason.name, domain=DOMAIN)
    status.details.add(
        type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString()
    )
    if reason.code is Code.RESOURCE_EXHAUSTED:
        retry = twins.RetryInfo(retry_delay=twins.Duration(seconds=RETRY_SECONDS))
        status.details.add(
            type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString()
        )
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(_STATUS_CODES[reason.code], str(error))
    raise AssertionError("abort() raises")
