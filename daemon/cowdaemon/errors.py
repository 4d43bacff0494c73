# SPDX-License-Identifier: Apache-2.0
"""Every way in which cowd says no: one table of reasons, one exception.

Pure values, used in every process. gRPC codes are plain integers here, because the broker must not
import grpc.
"""

from enum import Enum, IntEnum
from typing import Final

__all__ = ["DOMAIN", "Code", "CowdError", "Reason"]

DOMAIN: Final = "cowd"
"""`google.rpc.ErrorInfo.domain` of every failure."""


class Code(IntEnum):
    """The gRPC status codes in use (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Reason(Enum):
    """Why a call failed. The name is part of the contract; the number travels in `wire` messages.

    `code` is the gRPC status and `sentence` what the caller reads, with `{}` fields for what was
    wrong. The wording may change; name and code do not.
    """

    # What the request said.
    INVALID_PID = (1, Code.INVALID_ARGUMENT, "pid is {pid}: it must be 1 or more")
    UNALIGNED_ADDRESS = (
        2,
        Code.INVALID_ARGUMENT,
        "address {address:#x} is inside a page: round it down to a multiple of {page_size_bytes}",
    )
    INVALID_COUNT = (
        3,
        Code.INVALID_ARGUMENT,
        "count is {count}: ask for {wanted}",
    )
    RANGE_OVERFLOW = (
        4,
        Code.INVALID_ARGUMENT,
        "{count} pages from {address:#x} end past 2^64: shorten the range",
    )
    OUT_OF_ADDRESS_SPACE = (
        5,
        Code.OUT_OF_RANGE,
        "the range leaves the address space of process {pid}: "
        "keep to the mappings of /proc/{pid}/maps",
    )
    MALFORMED_REQUEST = (
        6,
        Code.INVALID_ARGUMENT,
        "the request is no valid message of this call: "
        "generate the client from cowd/v1/pageflags.proto",
    )
    UNKNOWN_SERVICE = (
        7,
        Code.NOT_FOUND,
        "cowd has no service {service!r}: ask about cowd.v1.PageFlagsService, or about no name",
    )
    TOO_MANY_PIDS = (
        8,
        Code.INVALID_ARGUMENT,
        "the request names {count} processes: name at most {maximum} a call, or none to ask about "
        "all that you may inspect",
    )
    INVALID_RANGE_COUNT = (
        9,
        Code.INVALID_ARGUMENT,
        "the request names {count} ranges: name 1 to {maximum} a call",
    )
    # What the process is.
    NO_SUCH_PROCESS = (10, Code.NOT_FOUND, "no process {pid}: it has ended, or is hidden from you")
    ACCESS_DENIED = (
        11,
        Code.PERMISSION_DENIED,
        "the kernel does not let you inspect process {pid}: it must have your uid and gid, no "
        "capabilities, and be dumpable. If it is yours and changed its uid, set "
        "prctl(PR_SET_DUMPABLE, 1) there, or exec after the change",
    )
    OWN_PROCESS = (
        12,
        Code.PERMISSION_DENIED,
        "process {pid} belongs to cowd, which does not answer about itself",
    )
    NO_ADDRESS_SPACE = (
        13,
        Code.FAILED_PRECONDITION,
        "process {pid} has no address space: it is a kernel thread, or its main thread has exited",
    )
    START_TIME_DIFFERS = (
        14,
        Code.FAILED_PRECONDITION,
        "process {pid} started at {actual} ticks after boot, not at {expected}: "
        "the pid now belongs to another process",
    )
    PROCESS_GONE = (
        15,
        Code.ABORTED,
        "process {pid} exited or executed another program while it was read: ask again",
    )
    OPEN_TIMED_OUT = (
        16,
        Code.DEADLINE_EXCEEDED,
        "the kernel did not open process {pid} within {seconds:g} s: "
        "it hangs in exec or exit. Ask again when it has moved on",
    )
    # Who the caller is: refusals of a whole connection.
    FOREIGN_USER_NAMESPACE = (
        20,
        Code.PERMISSION_DENIED,
        "you are in another user namespace than cowd, where your uid means another user: "
        "ask from outside the sandbox or container",
    )
    FOREIGN_PID_NAMESPACE = (
        21,
        Code.PERMISSION_DENIED,
        "you are in another pid namespace than cowd, where pids mean other processes: "
        "ask from outside the sandbox or container",
    )
    CALLER_GONE = (
        22,
        Code.PERMISSION_DENIED,
        "the process that made this connection ended before cowd could see its namespaces: "
        "connect from a process that stays",
    )
    CALLER_NOT_ALLOWED = (
        23,
        Code.PERMISSION_DENIED,
        "the administrator of this machine lets only members of certain groups use cowd, and you "
        "were in none of them when you connected: ask to be added (groups in cowd.toml), log in "
        "again",
    )
    # What is not for this caller.
    STATISTICS_DENIED = (
        24,
        Code.PERMISSION_DENIED,
        "only root and members of groups with a [[grant]] in cowd.toml may see what cowd has done: "
        "ask the administrator of this machine to be added to one, and log in again",
    )
    # Limits.
    TOO_MANY_CONNECTIONS = (
        30,
        Code.RESOURCE_EXHAUSTED,
        "your uid has too many connections to cowd: close some, or share one between threads",
    )
    TOO_MANY_CREDENTIALS = (
        31,
        Code.RESOURCE_EXHAUSTED,
        "cowd serves too many different credentials at the moment: try again shortly",
    )
    TOO_MANY_UNREAD_ANSWERS = (
        32,
        Code.RESOURCE_EXHAUSTED,
        "you have left too many of cowd's answers unread: read them before you ask again",
    )
    # What went wrong here.
    INTERNAL_ERROR = (
        40,
        Code.INTERNAL,
        "cowd failed to answer: its log has the cause (journalctl -u cowd)",
    )
    OPENER_LOST = (41, Code.UNAVAILABLE, "the process that opens targets was lost: try again")

    def __init__(self, number: int, code: Code, sentence: str) -> None:
        self.number = number
        self.code = code
        self.sentence = sentence

    @classmethod
    def from_number(cls, number: int) -> "Reason":
        """Return the reason that travels as `number`; INTERNAL_ERROR for one that is not known."""
        return _BY_NUMBER.get(number, cls.INTERNAL_ERROR)


_BY_NUMBER: Final = {reason.number: reason for reason in Reason}


class CowdError(Exception):
    """A refusal or failure that the caller is told about.

    Args:
        reason: why; decides the gRPC code.
        details: values for the fields of the reason's sentence.
    """

    def __init__(self, reason: Reason, **details: object) -> None:
        super().__init__(reason.sentence.format(**details))
        self.reason = reason
