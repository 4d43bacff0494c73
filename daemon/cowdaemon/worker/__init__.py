# SPDX-License-Identifier: Apache-2.0
"""The unprivileged part: speaks gRPC, reads through descriptors it was handed, tells what it may.

User cowd, no capabilities. `zygote` imports once and forks a worker for each credential; `worker`
is that process: `relay` carries bytes between a client and the in-process gRPC server behind
`inner_listener`; `service` answers; `targets` asks the opener for processes; `reader` reads pagemap
and kpageflags as arrays; `page_states` decides what a page is, `disclosure` what may be told;
`mappings` reads /proc/PID/maps; `features` is what the kernel offers.
"""
