# SPDX-License-Identifier: Apache-2.0
"""The root part: accepts, reads who is calling, opens targets as the caller, ends what it started.

Standard library and systemd-python only; it parses nothing that a client sent. `server` is the
event loop, which accepts; `peers` who is calling, `placement` from where; `opener` the process that
opens /proc/PID/pagemap; `pairs` the opener and worker of each credential, `zygote` the link to the
process that forks workers, `rooms` their directories; `audit` the records of what was decided.
"""
