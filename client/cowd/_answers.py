# SPDX-License-Identifier: Apache-2.0
"""The daemon's answers as plain values, verified. Sees protobuf; the transport asks."""

import sys
from array import array
from mmap import PAGESIZE

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

__all__ = [
    "convert_mappings",
    "convert_masks",
    "convert_page_counts",
    "convert_page_flags",
    "convert_server_info",
    "unpack_words",
]


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
