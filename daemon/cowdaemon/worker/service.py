# SPDX-License-Identifier: Apache-2.0
"""The calls of cowd.v1, from a request's bytes to a response's. Protobuf stays in this module.

Worker, unprivileged. One wrapper turns every failure into a gRPC status with a stable reason; what
is not expected becomes INTERNAL, with the detail in the log and not in the answer.
"""

import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

import grpc
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import twins_pb2 as twins
from google.protobuf.message import DecodeError, Message

from cowdaemon import __version__
from cowdaemon.errors import DOMAIN, Code, CowdError, Reason
from cowdaemon.limits import (
    CALLS_PER_WORKER,
    MAPPINGS_PATH_BYTES,
    MAPPINGS_PER_CALL,
    PAGES_PER_CALL,
    RETRY_SECONDS,
)
from cowdaemon.worker.disclosure import SAFE, DisclosureMasks
from cowdaemon.worker.page_states import Attribute, PageState, classify
from cowdaemon.worker.privileges import Confinement
from cowdaemon.worker.reader import PageReadings, Reader, ShortReadError
from cowdaemon.worker.targets import Target, Targets

__all__ = ["Caller", "PageFlagsService", "RefusingService"]

_log: Final = logging.getLogger(__name__)

_SERVICE: Final = "cowd.v1.PageFlagsService"
_HEALTH: Final = "grpc.health.v1.Health"
_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ADDRESSES: Final = 1 << 64
_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class Caller(NamedTuple):
    """Who the caller is, for telling it; access is decided by which opener the worker has."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class PageFlagsService:
    """Answers for one credential.

    Args:
        caller: that credential.
        targets: opens processes with its authority.
        reader: reads their pages.
        confinement: what this process is closed in by, for telling it.
    """

    def __init__(
        self, caller: Caller, targets: Targets, reader: Reader, confinement: Confinement
    ) -> None:
        self._caller = caller
        self._targets = targets
        self._reader = reader
        self._confinement = confinement
        self._masks: DisclosureMasks = SAFE

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of cowd.v1.PageFlagsService and of the standard health check."""
        return _Handlers(
            {
                f"/{_SERVICE}/GetPageFlags": (messages.GetPageFlagsRequest, self._get_page_flags),
                f"/{_SERVICE}/ListMappings": (messages.ListMappingsRequest, self._list_mappings),
                f"/{_SERVICE}/GetServerInfo": (messages.GetServerInfoRequest, self._get_info),
                f"/{_HEALTH}/Check": (twins.HealthCheckRequest, self._check_health),
            }
        )

    def adopt_opener(self, opener: socket.socket) -> None:
        """Use this opener from now on: the one before is gone."""
        self._targets.adopt_opener(opener)

    def drop_expired(self) -> None:
        """Close targets that were kept long enough."""
        self._targets.drop_expired()

    def _get_page_flags(self, request: messages.GetPageFlagsRequest) -> Message:
        _verify_range(request.address, request.count)
        target = self._open(request.pid, request.expected_start_time_ticks)
        readings = self._read(target, request.address, request.count)
        layout = self._reader.features.layout
        states, attributes = classify(readings.entries, readings.flags, layout)
        states[readings.unstable] = PageState.UNKNOWN
        attributes[readings.unstable] = Attribute.UNSTABLE
        disclosed = self._masks.apply(readings.entries, readings.flags)
        return twins.GetPageFlagsResponse(
            page_size_bytes=_PAGE_SIZE_BYTES,
            address=request.address,
            start_time_ticks=target.start_time_ticks,
            masks=twins.DisclosureMasks(**_mask_fields(self._masks)),
            kpageflags=disclosed.astype("<u8", copy=False).tobytes(),
            state=states.tobytes(),
            attributes=attributes.tobytes(),
        )

    def _list_mappings(self, request: messages.ListMappingsRequest) -> Message:
        target = self._open(request.pid, request.expected_start_time_ticks)
        response = messages.ListMappingsResponse(start_time_ticks=target.start_time_ticks)
        path_bytes = 0
        for mapping in target.list_mappings():
            if mapping.end_address <= request.start_address:
                continue
            if len(response.mappings) == MAPPINGS_PER_CALL or path_bytes > MAPPINGS_PATH_BYTES:
                response.next_start_address = response.mappings[-1].end_address
                break
            path_bytes += len(mapping.path)
            response.mappings.add(**mapping._asdict())
        if not target.is_alive():
            raise CowdError(Reason.PROCESS_GONE, pid=request.pid)
        return response

    def _get_info(self, _: messages.GetServerInfoRequest) -> Message:
        features = self._reader.features
        return messages.GetServerInfoResponse(
            version=__version__,
            page_size_bytes=_PAGE_SIZE_BYTES,
            caller=messages.CallerCredential(**self._caller._asdict()),
            maximum_page_count=PAGES_PER_CALL,
            maximum_mapping_count=MAPPINGS_PER_CALL,
            masks=messages.DisclosureMasks(**_mask_fields(self._masks)),
            kernel_features=messages.KernelFeatures(
                soft_dirty=features.layout.has_soft_dirty,
                guard_regions=features.has_guard_regions,
                markers=features.layout.marker_type is not None,
                pagemap_scan=features.has_pagemap_scan,
            ),
            maximum_concurrent_call_count=CALLS_PER_WORKER,
            confinement=messages.Confinement(
                seccomp=self._confinement.has_seccomp,
                landlock_abi=self._confinement.landlock_abi,
            ),
        )

    def _check_health(self, request: twins.HealthCheckRequest) -> Message:
        if request.service not in ("", _SERVICE):
            raise CowdError(Reason.UNKNOWN_SERVICE, service=request.service)
        return twins.HealthCheckResponse(status="SERVING_STATUS_SERVING")

    def _open(self, pid: int, expected_start_time_ticks: int) -> Target:
        if pid < 1:
            raise CowdError(Reason.INVALID_PID, pid=pid)
        target = self._targets.open(pid)
        actual = target.start_time_ticks
        if expected_start_time_ticks not in (0, actual):
            raise CowdError(
                Reason.START_TIME_DIFFERS,
                pid=pid,
                actual=actual,
                expected=expected_start_time_ticks,
            )
        return target

    def _read(self, target: Target, address: int, count: int) -> PageReadings:
        try:
            return self._reader.read(target.pagemap, address, count)
        except ShortReadError:
            if target.is_alive():
                raise CowdError(
                    Reason.OUT_OF_ADDRESS_SPACE, pid=target.pid, address=address
                ) from None
            raise CowdError(Reason.PROCESS_GONE, pid=target.pid) from None


class RefusingService:
    """Answers every call with one refusal, and holds nothing.

    Args:
        refusal: a reason whose sentence has no fields.
    """

    def __init__(self, refusal: Reason) -> None:
        self._refusal = refusal

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return a handler of any call."""
        refusal = CowdError(self._refusal)

        class Refusing(grpc.GenericRpcHandler):
            def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
                return grpc.unary_unary_rpc_method_handler(lambda _, call: _fail(call, refusal))

        return Refusing()

    def adopt_opener(self, opener: socket.socket) -> None:
        """Close it: nothing is opened for a caller who is refused."""
        opener.close()

    def drop_expired(self) -> None:
        """Nothing is kept."""


class _Handlers(grpc.GenericRpcHandler):
    """Unary calls by path: decode, answer, encode, and turn what is raised into a status."""

    def __init__(self, calls: dict[str, tuple[type[Message], Callable[[Any], Message]]]) -> None:
        self._calls = calls

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        call = self._calls.get(details.method)
        if call is None:
            return None  # gRPC answers UNIMPLEMENTED
        request_type, answer = call

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return answer(_decode(request_type, request)).SerializeToString()
            except CowdError as error:
                _fail(context, error)
            except Exception:  # noqa: BLE001 - the one place: INTERNAL, detail to the log
                _log.exception("%s failed", details.method)
                _fail(context, CowdError(Reason.INTERNAL_ERROR))

        return grpc.unary_unary_rpc_method_handler(handle)


def _decode(request_type: type[Message], request: bytes) -> Message:
    try:
        return request_type.FromString(request)
    except DecodeError as error:
        raise CowdError(Reason.MALFORMED_REQUEST) from error


def _fail(context: grpc.ServicerContext, error: CowdError) -> NoReturn:
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


def _verify_range(address: int, count: int) -> None:
    if address % _PAGE_SIZE_BYTES:
        raise CowdError(Reason.UNALIGNED_ADDRESS, address=address, page_size_bytes=_PAGE_SIZE_BYTES)
    if not 1 <= count <= PAGES_PER_CALL:
        raise CowdError(Reason.INVALID_COUNT, count=count, maximum=PAGES_PER_CALL)
    if address + count * _PAGE_SIZE_BYTES > _ADDRESSES:
        raise CowdError(Reason.RANGE_OVERFLOW, address=address, count=count)


def _mask_fields(masks: DisclosureMasks) -> dict[str, int]:
    return {
        "private_flags_mask": int(masks.private_flags),
        "shared_flags_mask": int(masks.shared_flags),
    }
