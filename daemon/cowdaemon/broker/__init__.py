# SPDX-License-Identifier: Apache-2.0
"""The root part: accepts, reads who is calling, opens targets as the caller, ends what it started.

Standard library and systemd-python only; it parses nothing that a client sent. `server` is the
event loop, which accepts; `listener` the socket, `peers` who is calling, `namespaces` from where;
`opener` the process that opens /proc/PID/pagemap; `pairs` the opener and worker of each credential,
`zygote` the link to the process that forks workers, `rooms` their directories; `privileges` and
`processes` what all of them are made with.
"""
