# SPDX-License-Identifier: Apache-2.0
"""The daemon's answers as plain values, verified. Sees protobuf; the transport asks."""

import sys
from array import array
from mmap import PAGESIZE
from typing import Final

from cowproto.v1 import pageflags_pb2, twins_pb2

from cowd._counts import PageCounts
from cowd._errors import InternalError
from cowd._mappings import Mapping, MappingKind, MappingList
from cowd._pages import (
    CallerCredential,
    Confinement,
    DisclosureMasks,
    GrantDetail,
    KernelFeatures,
    PageFlags,
    ServerInfo,
)
from cowd._statistics import CallCount, CallDurations, ServerStatistics

__all__ = [
    "convert_mappings",
    "convert_masks",
    "convert_page_counts",
    "convert_page_flags",
    "convert_server_info",
    "convert_statistics",
    "unpack_words",
]

_CODE_NAMES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
"""Of google.rpc.Code, by number."""


def convert_page_flags(
    answer: twins_pb2.GetPageFlagsResponse, pid: int, address: int, count: int
) -> PageFlags:
    """Return the pages of an answer to GetPageFlags.

    Raises:
        InternalError: it is not about these pages.
    """
    kpageflags = unpack_words("Q", answer.kpageflags)
    states, attributes = answer.state, answer.attributes
    place = answer.address, answer.page_size_bytes
    if (
        kpageflags is None
        or not len(kpageflags) == len(states) == len(attributes) == count
        or place != (address, PAGESIZE)
    ):
        raise InternalError("cowd's answer is not about the pages asked for", pid=pid)
    return PageFlags(
        pid=pid,
        page_size_bytes=PAGESIZE,
        address=address,
        start_time_ticks=answer.start_time_ticks,
        masks=convert_masks(answer.masks),
        kpageflags=kpageflags,
        states=states,
        attributes=attributes,
    )


def convert_mappings(answer: pageflags_pb2.ListMappingsResponse, pid: int) -> MappingList:
    """Return the mappings of one answer to ListMappings."""
    mappings = [
        Mapping(
            start_address=mapping.start_address,
            end_address=mapping.end_address,
            permissions=mapping.permissions,
            file_offset_bytes=mapping.file_offset_bytes,
            path=mapping.path,
            kind=MappingKind(mapping.kind),
            page_counts=(
                convert_page_counts(mapping.page_counts)
                if mapping.HasField("page_counts")
                else None
            ),
        )
        for mapping in answer.mappings
    ]
    return MappingList(pid, answer.start_time_ticks, mappings)


def convert_page_counts(
    counts: pageflags_pb2.PageCounts | pageflags_pb2.PageTotals,
) -> PageCounts:
    """Return the numbers of pages by state."""
    return PageCounts(
        absent=counts.absent_page_count,
        file=counts.file_page_count,
        anon=counts.anon_page_count,
        anon_swapped=counts.anon_swapped_page_count,
        zero=counts.zero_page_count,
        guard=counts.guard_page_count,
        unknown=counts.unknown_page_count,
    )


def convert_server_info(answer: pageflags_pb2.GetServerInfoResponse) -> ServerInfo:
    """Return an answer to GetServerInfo."""
    caller, features = answer.caller, answer.kernel_features
    return ServerInfo(
        version=answer.version,
        page_size_bytes=answer.page_size_bytes,
        caller=CallerCredential(caller.uid, caller.gid, tuple(caller.groups)),
        maximum_page_count=answer.maximum_page_count,
        maximum_mapping_count=answer.maximum_mapping_count,
        maximum_range_count=answer.maximum_range_count,
        maximum_pid_count=answer.maximum_pid_count,
        maximum_concurrent_call_count=answer.maximum_concurrent_call_count,
        masks=convert_masks(answer.masks),
        kernel_features=KernelFeatures(
            soft_dirty=features.soft_dirty,
            guard_regions=features.guard_regions,
            markers=features.markers,
            pagemap_scan=features.pagemap_scan,
            page_copiers=features.page_copiers,
        ),
        confinement=Confinement(
            seccomp=answer.confinement.seccomp,
            landlock_abi=answer.confinement.landlock_abi,
        ),
        granted=GrantDetail(answer.granted),
    )


def convert_statistics(answer: pageflags_pb2.GetStatisticsResponse) -> ServerStatistics:
    """Return an answer to GetStatistics.

    Raises:
        InternalError: it contradicts itself.
    """
    bounds_seconds = tuple(answer.duration_bound_seconds)
    if any(len(each.bucket_count) != len(bounds_seconds) + 1 for each in answer.durations):
        raise InternalError("cowd's durations do not have the buckets that it says they have")
    return ServerStatistics(
        version=answer.version,
        start_time_seconds=answer.start_time_nanoseconds / 1e9,
        connection_count=answer.connection_count,
        worker_count=answer.worker_count,
        pages_read=answer.read_page_count,
        calls=[CallCount(each.method, _name_code(each.code), each.count) for each in answer.calls],
        durations=[
            CallDurations(each.method, bounds_seconds, tuple(each.bucket_count), each.total_seconds)
            for each in answer.durations
        ],
        refusals={each.reason: each.count for each in answer.refusals},
    )


def _name_code(code: int) -> str:
    return _CODE_NAMES[code] if 0 <= code < len(_CODE_NAMES) else str(code)


def convert_masks(
    masks: pageflags_pb2.DisclosureMasks | twins_pb2.DisclosureMasks,
) -> DisclosureMasks:
    """Return the masks of an answer."""
    return DisclosureMasks(masks.private_flags_mask, masks.shared_flags_mask)


def unpack_words(typecode: str, words: bytes) -> "array[int] | None":
    """Return little-endian words as an array, or None if they end inside one."""
    unpacked = array(typecode)
    if len(words) % unpacked.itemsize:
        return None
    unpacked.frombytes(words)
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked
