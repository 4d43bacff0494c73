# SPDX-License-Identifier: Apache-2.0
"""From a call's bytes to its answer's, and from what an answer raises to a gRPC status.

Worker, unprivileged. One wrapper gives every failure a status with a stable reason; what is not
expected becomes INTERNAL, with the detail in the log and not in the answer.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import grpc
from cowproto.v1 import twins_pb2 as twins
from google.protobuf.message import DecodeError, Message

from cowdaemon.errors import DOMAIN, Code, CowdError, Reason
from cowdaemon.limits import ANSWERS_UNREAD, RETRY_SECONDS
from cowdaemon.worker.call_counts import Counters, number_method

__all__ = ["Answer", "Handlers", "LongAnswer", "StreamedAnswer", "fail"]

_T = TypeVar("_T")

_log: Final = logging.getLogger(__name__)

_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Answer = Callable[[Any], bytes]
"""Returns the response to a request, encoded."""
LongAnswer = Callable[[Any, Callable[[], None]], bytes]
"""Does the same. Its second argument is to be called before each part of the work, by any thread:
that notes progress, and raises once nobody waits for more."""
StreamedAnswer = Callable[[Any, Callable[[], None]], Iterator[bytes]]
"""Yields the responses to a request, encoded; the second argument as above."""


class _CallEndedError(Exception):
    """The caller has cancelled the call, has gone, or gave it no more time."""


class _Call:
    """One call, until gRPC is rid of it.

    When it made progress last is set by whoever works for it, in any thread. `outcome` is what it
    ends with, which is to be cancelled unless it is answered or fails.
    """

    __slots__ = ("_context", "outcome", "progress_seconds", "start_seconds")

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self.outcome: Code | Reason = Code.CANCELLED
        self.start_seconds = time.monotonic()
        self.progress_seconds = 0.0

    def verify_wanted(self) -> None:
        """Note progress; raise if nobody waits for more. From any thread."""
        self.progress_seconds = time.monotonic()
        if not self._context.is_active():
            raise _CallEndedError


class Handlers(grpc.GenericRpcHandler):
    """What answers calls, by path: with one response, after long work or not, or with a stream.

    `counters` are told how each call ended.
    """

    def __init__(
        self,
        counters: Counters,
        calls: dict[str, tuple[type[Message], Answer]],
        streams: dict[str, tuple[type[Message], StreamedAnswer]],
        long_calls: dict[str, tuple[type[Message], LongAnswer]] | None = None,
    ) -> None:
        answers = {method: _ignore_progress(*call) for method, call in calls.items()}
        answers.update(long_calls or {})
        self._counters = counters
        self._methods = {
            **{method: self._make_unary_handler(method, *call) for method, call in answers.items()},
            **{
                method: self._make_stream_handler(method, *stream)
                for method, stream in streams.items()
            },
        }
        self._under_way: set[_Call] = set()
        # Apart, because a call that is over for gRPC may still hold its thread.
        self._worked_on: set[_Call] = set()
        self._changed = threading.Condition()

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Return the handler of one call, or None: gRPC answers UNIMPLEMENTED."""
        handler = self._methods.get(details.method)
        if handler is None:
            self._counters.count_call(number_method(details.method), Code.UNIMPLEMENTED)
        return handler

    def longest_work_seconds(self) -> float:
        """Return how long the call that stands still has done so, of all that are worked on."""
        now = time.monotonic()
        return max((now - call.progress_seconds for call in list(self._worked_on)), default=0.0)

    def await_idle(self, work_seconds: float, reading_seconds: float) -> None:
        """Return when all calls have been answered and their answers read, or after so long.

        Args:
            work_seconds: for what is worked on.
            reading_seconds: after that, for clients to read; they might never do so.
        """
        with self._changed:
            if self._changed.wait_for(lambda: not self._worked_on, work_seconds):
                self._changed.wait_for(lambda: not self._under_way, reading_seconds)

    def _begin(self, context: grpc.ServicerContext) -> _Call:
        """Count a call until gRPC is rid of it: its status is sent, or its client has gone."""
        call = _Call(context)
        self._under_way.add(call)
        if not context.add_callback(partial(self._forget, call)):
            self._forget(call)  # it has ended already
        return call

    def _forget(self, call: _Call) -> None:
        self._under_way.discard(call)
        self._notify_change()

    def _start_work(self, call: _Call) -> None:
        call.progress_seconds = time.monotonic()
        self._worked_on.add(call)

    def _stop_work(self, call: _Call) -> None:
        self._worked_on.discard(call)
        self._notify_change()

    def _count(self, method: int, call: _Call) -> None:
        self._counters.count_work(method, call.outcome, time.monotonic() - call.start_seconds)

    def _notify_change(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _verify_read(self) -> None:
        """Raise if clients leave too many answers unread."""
        if len(self._under_way) > ANSWERS_UNREAD:
            raise CowdError(Reason.TOO_MANY_UNREAD_ANSWERS)

    def _make_unary_handler(
        self, method: str, request_type: type[Message], answer: LongAnswer
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        number = number_method(method)

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            call = self._begin(context)
            self._start_work(call)
            try:
                self._verify_read()
                response = answer(_decode(request_type, request), call.verify_wanted)
                call.outcome = Code.OK
                return response
            except _CallEndedError:
                return b""  # nobody reads it
            except Exception as error:  # noqa: BLE001 - see _fail_as_status
                _fail_as_status(method, context, call, error)
            finally:
                self._stop_work(call)
                self._count(number, call)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _make_stream_handler(
        self, method: str, request_type: type[Message], answer: StreamedAnswer
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        number = number_method(method)

        def handle(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            call = self._begin(context)
            responses: Iterator[bytes] = iter(())
            try:
                self._verify_read()
                wanted = _decode(request_type, request)
                responses = self._work_on(call, answer, wanted, call.verify_wanted)
                while (response := self._work_on(call, next, responses, None)) is not None:
                    yield response
                call.outcome = Code.OK
            except _CallEndedError:
                pass  # nobody reads a status
            except Exception as error:  # noqa: BLE001 - see _fail_as_status
                _fail_as_status(method, context, call, error)
            finally:
                # Those who read ahead for it are waited for, and may stand still.
                self._work_on(call, _close, responses)
                self._count(number, call)

        return grpc.unary_stream_rpc_method_handler(handle)

    def _work_on(self, call: _Call, work: Callable[..., _T], *arguments: Any) -> _T:  # noqa: ANN401
        self._start_work(call)
        try:
            return work(*arguments)
        finally:
            self._stop_work(call)


def _close(responses: Iterator[bytes]) -> None:
    if isinstance(responses, Generator):
        responses.close()


def _fail_as_status(
    method: str, context: grpc.ServicerContext, call: _Call, error: Exception
) -> NoReturn:
    """End a call with the status of what it raised: the one place, for every call."""
    if not isinstance(error, CowdError):
        _log.exception("%s failed", method)
        error = CowdError(Reason.INTERNAL_ERROR)
    call.outcome = error.reason
    fail(context, error)


def _ignore_progress(
    request_type: type[Message], answer: Answer
) -> tuple[type[Message], LongAnswer]:
    return request_type, lambda request, _: answer(request)


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
