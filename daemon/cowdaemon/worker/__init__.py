# SPDX-License-Identifier: Apache-2.0
"""The unprivileged part: speaks gRPC, reads through descriptors it was handed, tells what it may.

User cowd, no capabilities, confined; but for the start of `zygote`, which opens `kernel_files` and
tries out the kernel's `features` as root before `privileges` gives everything up. It imports once
and forks a worker for each credential; `worker` is that process: `relay` carries bytes between a
client and the in-process gRPC server behind `inner_listener`, which serves as `grpc_settings` has
asked it to; `handlers` turns them into calls, `service` answers, `encoding` puts arrays on the
wire; `targets` asks the opener for processes.

`reader` reads pages as arrays, by `pagemap` and `kpageflags`, and `few_pages` without arrays;
`page_stream` does so for ranges of any length: `page_scan` finds where anything is, `chunks` cuts
it up, `read_ahead` does it ahead of the client. `page_states` decides what a page is, `disclosure`
what may be told. `mappings` reads /proc/PID/maps, `summaries` adds up, for a whole process.
"""
