# SPDX-License-Identifier: Apache-2.0
"""How calls fail, as gRPC code and reason, and processes that bring it about by their nature."""

DENIED = ("PERMISSION_DENIED", "ACCESS_DENIED")
OWN = ("PERMISSION_DENIED", "OWN_PROCESS")
ABSENT = ("NOT_FOUND", "NO_SUCH_PROCESS")
WITHOUT_MEMORY = ("FAILED_PRECONDITION", "NO_ADDRESS_SPACE")
GONE = ("ABORTED", "PROCESS_GONE")
TIMED_OUT = ("DEADLINE_EXCEEDED", "OPEN_TIMED_OUT")
CALLER_GONE = ("PERMISSION_DENIED", "CALLER_GONE")
FOREIGN_USER_NAMESPACE = ("PERMISSION_DENIED", "FOREIGN_USER_NAMESPACE")
FOREIGN_PID_NAMESPACE = ("PERMISSION_DENIED", "FOREIGN_PID_NAMESPACE")
ENDED = {GONE, WITHOUT_MEMORY, ABSENT}
"""What may be said of a process that ends meanwhile."""

ABSENT_PID = 2**31 - 1
"""Over the largest pid_max that a kernel takes (PID_MAX_LIMIT, 2^22)."""
KERNEL_THREAD = 2
"""kthreadd, where the kernel's threads are to be seen at all."""
