# SPDX-License-Identifier: Apache-2.0
"""The unprivileged part: speaks gRPC, reads through descriptors it was handed, tells what it may.

User cowd, no capabilities, confined; but for the start of `zygote`, which opens `kernel_files` and
tries out the kernel's `features` as root before `privileges` gives everything up. It imports once
and forks a worker for each credential; `worker` is that process: `relay` carries bytes between a
client and the in-process gRPC server behind `inner_listener`; `handlers` turns them into calls,
`service` answers; `targets` asks the opener for processes; `reader` reads pagemap and kpageflags as
arrays, and `few_pages` without; `page_scan` finds where anything is, `mappings` reads
/proc/PID/maps; `page_states` decides what a page is, `disclosure` what may be told, `summaries`
adds up.
"""
