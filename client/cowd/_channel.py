# SPDX-License-Identifier: Apache-2.0
"""One connection to the daemon, and how calls are made on it. Nothing else in the client sees grpc.

Failures: every gRPC error leaves here as a `cowd.Error`, with the daemon's reason where it gave
one in `grpc-status-details-bin`. A call that did not get through to a daemon that is there is made
again: the daemon may have restarted, or had a full queue. All calls only read, so that is safe.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import Message

from cowd._address import make_target, try_to_connect
from cowd._cancellations import CANCELLATION
from cowd._errors import (
    Error,
    InternalError,
    InvalidRequest,
    TimedOut,
    Unavailable,
    error_from_status,
)
from cowd._statuses import decode_details, explain_lost

__all__ = ["Channel", "Conversation", "Invoke", "StreamMethod"]

_LARGEST_ANSWER_BYTES: Final = 32 << 20
"""Mappings with paths of the longest length; 65,536 pages are 655 kB."""
_CONNECT_SECONDS: Final = 8.0
"""For the daemon to take a connection. One that stops may still work for five on what others have
asked, before the next one starts."""

_PAUSES_SECONDS: Final = (0.02, 0.1, 0.2, 0.4, 0.8)
"""Between the attempts of a call that gets lost: grpc has to notice that the connection is gone,
and a full queue to be served. A daemon that hangs is not waited for twice."""
_NOBODY_LISTENS: Final = frozenset(
    {errno.ENOENT, errno.ECONNREFUSED, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EPROTOTYPE}
)
"""What connecting again a moment later will not change."""

_LOST: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""Without a reason of cowd: gRPC says the second of a server that stops, and of its own client."""

_Answer = TypeVar("_Answer", bound=Message)
_Answer_contra = TypeVar("_Answer_contra", bound=Message, contravariant=True)
_Value = TypeVar("_Value")
_Value_co = TypeVar("_Value_co", covariant=True)

StreamMethod: TypeAlias = "grpc.UnaryStreamMultiCallable[Any, _Answer]"
"""A method of the daemon that answers with a stream."""
Invoke: TypeAlias = Callable[..., _Answer]
"""From a request's fields to its answer."""

_SURVIVES_FORK: Final = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in {
    "1",
    "true",
    "yes",
}
"""Whether grpc was told to prepare for forks (its doc/fork_support.md); it looks when imported."""


class _Forks:
    """How often this process and its parents were forked, since a pid may be its parent's again.

    `first_use` is the count when grpc was first used, by this process or one of these parents.
    `calls_of_parent` are kept: to forget one would end it, on the parent's connection.
    """

    count = 0
    first_use: int | None = None
    calls_of_parent: ClassVar[list[grpc.Call]] = []

    @classmethod
    def add_one(cls) -> None:
        """Count: called in the child."""
        cls.count += 1


os.register_at_fork(after_in_child=_Forks.add_one)


class Conversation(Protocol[_Answer_contra, _Value_co]):
    """What is asked with a stream of answers, and how far these have come."""

    begins_anew: ClassVar[bool]
    """Whether a call that is made again answers from the beginning."""

    @property
    def pid(self) -> int | None:
        """The process that is asked about, if it is one."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""

    def make_request(self) -> Message:
        """Return the request for what is missing, or raise InvalidRequest."""

    def take(self, answer: _Answer_contra, /) -> _Value_co | None:
        """Return what the next answer says, None if that has been told; or raise InternalError."""

    def finish(self) -> None:
        """Note that there are no more answers; raise InternalError if one is missing."""


@dataclass(slots=True)
class _Wait:
    """The wait for one answer of a stream, in as many attempts as it takes.

    Attributes:
        deadline, attempt: when it ends, and when the last attempt began, by the monotonic clock.
        pauses: that are left between attempts.
        first: how the first attempt failed.
        is_crowded: the daemon took no connection then.
    """

    deadline: float
    attempt: float
    pauses: Iterator[float]
    first: grpc.Call | None = None
    is_crowded: bool = False


class Channel:
    """One gRPC channel to a daemon.

    Threads may share it. A child of a fork may not: its calls would go out on the parent's
    connection, in the parent's name.

    Args:
        path: of the daemon's socket.
        timeout_seconds: for each call, and for each answer of a stream.

    Raises:
        Unavailable: this process is the child of a fork, and grpc was in use in its parent.
    """

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._fork_count = _Forks.count
        self._is_closed = False
        if _Forks.first_use not in (None, _Forks.count) and not _SURVIVES_FORK:
            # Even the parent's calls would fail then: they share what grpc waits with.
            raise Unavailable(
                "cannot talk to cowd in a process that was forked after its parent did: make the "
                "first client after the fork, or set GRPC_ENABLE_FORK_SUPPORT=1 in the environment"
            )
        if _Forks.first_use is None:
            _Forks.first_use = _Forks.count
        self._connect_seconds = min(_CONNECT_SECONDS, 0.8 * timeout_seconds)
        self._channel = grpc.insecure_channel(
            make_target(path),
            options=[
                ("grpc.default_authority", "localhost"),  # Otherwise the path, a bad Host header.
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_receive_message_length", _LARGEST_ANSWER_BYTES),
                # The time to make a connection in, despite the name. Less than a call has, so that
                # a daemon that takes no connections is not confused with one slow to answer.
                ("grpc.min_reconnect_backoff_ms", max(1, int(1000 * self._connect_seconds))),
                # The pauses between attempts: short, as there is no network to spare.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 250),
            ],
        )

    def close(self) -> None:
        """Close the connection. Calls under way fail."""
        self._is_closed = True
        if _Forks.count == self._fork_count:  # not in a child: the connection is the parent's
            self._channel.close()

    def make_method(
        self, name: str, request_type: type[Message], answer_type: type[_Answer]
    ) -> Invoke[_Answer]:
        """Return a function from a request's fields to the answer of the method `name`."""
        call = self._channel.unary_unary(
            name,
            request_serializer=request_type.SerializeToString,
            response_deserializer=answer_type.FromString,
        )

        def invoke(**fields: int | str) -> _Answer:
            try:
                request = request_type(**fields)
            except (TypeError, ValueError) as error:  # Not a number, or not one that fits.
                raise InvalidRequest(f"the request cannot be sent: {error}") from error
            self._verify_ours()
            pid = fields.get("pid")
            try:
                return self._call(call, request, pid if isinstance(pid, int) else None)
            except ValueError as error:  # So says grpc.
                raise Unavailable("this client is closed: make another one") from error

        return invoke

    def make_stream_method(
        self, name: str, request_type: type[Message], answer_type: type[_Answer]
    ) -> "StreamMethod[_Answer]":
        """Return the method `name` for `converse`."""
        return self._channel.unary_stream(
            name,
            request_serializer=request_type.SerializeToString,
            response_deserializer=answer_type.FromString,
        )

    def converse(
        self, method: "StreamMethod[_Answer]", conversation: Conversation[_Answer, _Value]
    ) -> Iterator[_Value]:
        """Yield what answers say; ask again for what is missing if a call gets lost or takes long.

        No more than one answer is held, and the call ends with the iterator.
        """
        patience = 1
        wait = self._begin_wait()
        while not conversation.is_complete:
            has_told = False
            call = self._start_stream(method, conversation, wait)
            try:
                while (answer := self._receive(call)) is not None:
                    value = conversation.take(answer)
                    if value is not None:
                        has_told = True
                        yield value
                        wait = self._begin_wait(patience)
                conversation.finish()
            except grpc.RpcError as error:
                failed = cast(grpc.Call, error)  # A failed call raises an RpcError that is a Call.
                if not (has_told and self._is_late(failed)):
                    self._pause_or_raise(wait, failed, conversation.pid)
                elif conversation.begins_anew:  # So it takes longer to get any further.
                    patience *= 2
                    wait = self._begin_wait(patience)
            finally:
                self._abandon(call)

    def _call(
        self, call: "grpc.UnaryUnaryMultiCallable[Any, _Answer]", request: Message, pid: int | None
    ) -> _Answer:
        wait = self._begin_wait()
        while True:
            wait.attempt = time.monotonic()
            timeout = max(0, wait.deadline - wait.attempt)
            cancellation = CANCELLATION.get()
            try:
                if cancellation is None:
                    return call(request, timeout=timeout, wait_for_ready=wait.is_crowded)
                future = call.future(request, timeout=timeout, wait_for_ready=wait.is_crowded)
                cancellation.attach(future)
                return future.result()
            except grpc.FutureCancelledError as error:
                raise _make_cancelled(pid) from error
            except grpc.RpcError as error:
                # A failed call raises an RpcError that is a Call.
                self._pause_or_raise(wait, cast(grpc.Call, error), pid)

    def _start_stream(
        self,
        method: "StreamMethod[_Answer]",
        conversation: Conversation[_Answer, Any],
        wait: _Wait,
    ) -> "grpc._CallIterator[_Answer]":
        request = conversation.make_request()
        self._verify_ours()
        wait.attempt = time.monotonic()
        try:
            call = method(
                request,
                timeout=max(0, wait.deadline - wait.attempt),
                wait_for_ready=wait.is_crowded,
            )
        except ValueError as error:  # So says grpc.
            raise Unavailable("this client is closed: make another one") from error
        cancellation = CANCELLATION.get()
        if cancellation is not None:
            cancellation.attach(call)
        return call

    def _receive(self, call: "grpc._CallIterator[_Answer]") -> _Answer | None:
        self._verify_ours()
        return next(call, None)

    def _abandon(self, call: grpc.Call) -> None:
        if _Forks.count == self._fork_count:
            call.cancel()
        else:
            _Forks.calls_of_parent.append(call)

    def _verify_ours(self) -> None:
        if _Forks.count != self._fork_count:
            raise Unavailable(
                "this client was made before a fork and is the parent's: make another one"
            )

    def _begin_wait(self, patience: int = 1) -> _Wait:
        now = time.monotonic()
        return _Wait(now + patience * self._timeout_seconds, now, iter(_PAUSES_SECONDS))

    def _pause_or_raise(self, wait: _Wait, failed: grpc.Call, pid: int | None) -> None:
        """Return after a pause if what failed may be tried again; else raise why it failed."""
        pause = next(wait.pauses, None)
        hangs = time.monotonic() - wait.attempt >= self._connect_seconds
        may_help = pause is not None and not hangs and self._was_lost(failed)
        number = try_to_connect(self._path) if may_help else 0
        if pause is None or not may_help or number in _NOBODY_LISTENS:
            # That the time is up says less than why it did not get through at first.
            why = wait.first if wait.first and self._is_late(failed) else failed
            raise self._convert_error(why, pid) from cast(grpc.RpcError, failed)
        wait.first = wait.first or failed
        # If it is, grpc connects again and again, with the pauses of the options above.
        wait.is_crowded = number != 0
        time.sleep(pause)

    def _is_late(self, failed: grpc.Call) -> bool:
        """Whether the time is up, and not because the daemon found that."""
        reason, _ = decode_details(failed.trailing_metadata())
        return failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED and reason is None

    def _was_lost(self, failed: grpc.Call) -> bool:
        """Whether the call has no answer of cowd's, and may have one if it is made again."""
        reason, _ = decode_details(failed.trailing_metadata())
        is_ended = self._is_closed or _is_cancelled()
        return failed.code() in _LOST and reason is None and not is_ended

    def _convert_error(self, call: grpc.Call, pid: int | None) -> Error:
        code = call.code()
        if code is grpc.StatusCode.CANCELLED and self._is_closed:
            return Unavailable("this client was closed during the call: make another one", pid=pid)
        if code is grpc.StatusCode.CANCELLED and _is_cancelled():
            return _make_cancelled(pid)
        message = call.details() or f"the call failed with {code.name}"
        reason, retry_after_seconds = decode_details(call.trailing_metadata())
        if reason is None and code in _LOST:
            return explain_lost(self._path, message, pid)
        if reason is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimedOut(
                f"cowd at {self._path} did not answer within {self._timeout_seconds:g} s: it does "
                "not while other programs of yours leave too many streams unread",
                pid=pid,
            )
        if reason is None and code is grpc.StatusCode.UNIMPLEMENTED:
            return InternalError(
                f"cowd at {self._path} does not know this call: it is older than this library. "
                "Update it",
                pid=pid,
            )
        return error_from_status(
            code.value[0],
            message,
            reason=reason,
            pid=pid,
            retry_after_seconds=retry_after_seconds,
        )


def _is_cancelled() -> bool:
    cancellation = CANCELLATION.get()
    return cancellation is not None and cancellation.is_cancelled


def _make_cancelled(pid: int | None) -> Error:
    return Unavailable("the call was cancelled", pid=pid)
