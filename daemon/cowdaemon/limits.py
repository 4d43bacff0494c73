# SPDX-License-Identifier: Apache-2.0
"""What bounds the daemon, each with the reason for its size. Pure values, used in every process."""

import os
from typing import Final

# Connections. The broker counts them from accept until the worker says that they are closed.
CONNECTIONS_PER_UID: Final = 64
"""Served at once for one uid; the next ones read why not. A program needs one."""
REFUSED_CONNECTIONS_PER_UID: Final = 16
"""Beyond those served, handed to a refusing worker; what comes after is closed without a word."""
REFUSED_PER_REASON: Final = 64
"""Of all uids: they share the refusing worker of a reason. Three descriptors each fit
WORKER_DESCRIPTORS."""
CONNECTIONS: Final = 1024
"""In all. Bounds what the broker remembers; with the cap by uid it takes many users to reach."""
ACCEPT_PAUSE_SECONDS: Final = 0.1
"""After accept failed for want of descriptors or memory: some are given back meanwhile."""
TICK_SECONDS: Final = 0.25
"""How often the broker looks at the clock while it serves somebody."""
LISTEN_BACKLOG: Final = 128
"""Connections that wait in the kernel while the zygote starts or the broker is busy."""
MOST_WAITING: Final = 4096
"""Connections that the kernel lets wait in any socket (SOMAXCONN), so in systemd's as well."""
START_PAUSE_SECONDS: Final = 0.5
"""Before an end for which somebody has to do something: whoever connects next starts cowd again."""
ACCEPTS_PER_WAKEUP: Final = 32
"""Then other events have their turn, so that a flood of connections starves nobody."""

# Processes.
WORKERS: Final = 64
"""Credentials served at once. A worker holds 6-8 MB of its own: 512 MB in all."""
WORKERS_PER_UID: Final = 8
"""One user may connect with many different groups (newgrp); others need workers too."""
WORKER_IDLE_SECONDS: Final = 10
"""A worker without connections ends after this: long enough for a script that asks in a loop."""
IDLE_EXIT_SECONDS: Final = 300
"""cowd leaves after so long without a worker if systemd holds its socket. Coming back takes half a
second, and what it frees is about 60 MB."""
ZYGOTE_START_SECONDS: Final = 30.0
"""Importing grpc and numpy takes under a second; a cold disk on a small machine takes longer."""
PLACEMENT_SECONDS: Final = 2.0
"""For looking at a peer's namespaces through /proc, which a peer can make hang."""
DRAIN_SECONDS: Final = 5.0
"""Calls in flight may finish within this after SIGTERM; one about all processes may be cut off."""
READING_SECONDS: Final = 1.0
"""More, for clients to read their answers; who is slower makes nobody wait for the next cowd."""
STOP_SECONDS: Final = 8.0
"""For all of it, and for the ends of the processes; then what is left is killed."""
FLUSH_SECONDS: Final = 0.2
"""For what has been written to go through gRPC, the relay and the sockets between."""

# Opening a target.
OPENER_SECONDS: Final = 2.0
"""Opening a healthy process takes 0.1 ms. One that hangs (a stuck exec) costs its caller this."""
OPENER_REPLACED_SECONDS: Final = 1.0
"""How long a call waits for the next opener after one was lost; a fork takes a few ms."""
STUCK_KEPT_SECONDS: Final = 10.0
"""A process that did not open in time is not tried again for this long: whoever shares the
credential waits behind it."""
TARGET_KEPT_SECONDS: Final = 1.0
"""How long a worker uses an opened target before it asks the kernel for access again."""
OPENER_BUFFER_BYTES: Final = 4_096
"""Of an opener's socket. What lies there unread holds descriptors, and the kernel counts those of
all openers together (RLIMIT_NOFILE of root); a few messages are enough for one call at a time."""
TARGETS_AHEAD: Final = 8
"""Processes that a call has opened while it works on others: the opener is another process."""
TARGETS_TOGETHER: Final = 16
"""Processes that a call scans and counts at once: with fewer, what it takes to do so for a few
pages counts. Of READING_THREADS + 2 such groups the descriptors are open, two for each process, and
the first answer waits for one group less."""
MAPPINGS_TOGETHER: Final = 1 << 14
"""Of such a group: the process that exceeds it is its last. With one of 65,530 mappings, the most
that the kernel allows by default, counts take 5 MB an array."""
SMALL_PAGES: Final = 1 << 14
"""Of a process that is counted together with others; 64 MiB of 4 KiB pages. If the pages of all of
them have to be read, that takes some 18 MB."""
TARGETS_KEPT: Final = 32
"""Opened targets that a worker keeps, two descriptors each."""
STATISTICS_SECONDS: Final = 0.05
"""How long the broker tells the same sums again, as to make them anew takes it up to some ms; and a
worker as well, as the broker has others to serve. So they are 0.1 s old at most, and a worker that
asks sooner does what it was not made for."""
STATISTICS_ANSWER_SECONDS: Final = 3.0
"""How long a call waits for the broker, which answers at once unless it has gone."""

# The audit log. Each process has its own bounds: 20 records of an opener, 100 of the broker.
AUDIT_SECONDS: Final = 5.0
"""Records are counted over this; what was dropped is told when it is over."""
AUDIT_RECORDS_PER_UID: Final = 20
"""And by reason, so that no noise keeps out what matters: enough for a program that tries this and
that, too little to fill a journal."""
AUDIT_RECORDS: Final = 100
"""Of all uids together, in the broker: many users at once shall not fill a journal either."""

# Calls.
PAGES_PER_CALL: Final = 65_536
"""256 MiB of 4 KiB pages; listed in one response of a stream, too. Ten bytes a page: 655 kB."""
RANGES_PER_CALL: Final = 256
"""Of a stream: 5.6 kB at 22 bytes a range, the longest, under REQUEST_BYTES."""
MAPPINGS_PER_CALL: Final = 4_096
"""A reply stays under 1 MB with paths of ordinary length."""
MAPPINGS_PATH_BYTES: Final = 1 << 20
"""Of paths in one reply: 4,096 paths of 4,096 bytes would be 16 MB."""
COUNTED_PAGES: Final = 1 << 24
"""Looked at for the counts of one list of mappings; then it goes on in the next. 64 GiB of 4 KiB
pages, which take about a second if they are read; a mapping that is larger is counted in one go."""
PIDS_PER_CALL: Final = 512
"""Asked for in one request: 5.1 kB at ten bytes a pid, the longest, under REQUEST_BYTES."""
PIDS: Final = 1 << 22
"""PID_MAX_LIMIT of the kernel: no list of the opener's has more."""
CALLS_PER_WORKER: Final = 4
"""Threads that read for one credential: more do not help on few cores and take memory."""
STREAMS_PER_CONNECTION: Final = 2
"""Calls under way on one connection; a client's further calls wait."""
ANSWERS_UNREAD: Final = 64
"""That gRPC holds for the clients of one worker: 64 x 655 kB are 42 MB, and gRPC's copies. It takes
an answer from its thread at once, so the threads bound nothing; and older releases do not hold a
client that ignores their settings to STREAMS_PER_CONNECTION."""
REQUEST_BYTES: Final = 8_192
"""The largest have RANGES_PER_CALL ranges, or PIDS_PER_CALL pids of ten bytes each (negative ones);
others are under 40."""
METADATA_BYTES: Final = 8_192
"""gRPC's own recommendation for headers."""
CONNECTION_IDLE_SECONDS: Final = 600
"""A connection without a call is closed; clients reconnect by themselves."""

WORK_SECONDS: Final = 60.0
"""For one step of a call, after which its worker ends: a target can hold up whoever reads its page
tables for as long as it likes, and a thread that is held up is lost. Waiting behind other calls for
the opener takes less."""

# Reading.
READING_THREADS: Final = max(2, min(4, os.cpu_count() or 1))
"""Of a worker. The kernel's work on page tables and frames is most of what there is to do; more of
them would be for a machine of which one user should not have all."""
WINDOW_PAGES: Final = 1 << 20
"""Of scattered frames, read together: 16 MB while they are worked on. With fewer, more is read of
kpageflags for nothing; with more, the first answer comes later."""
WINDOW_PIECES: Final = 32
"""And no more than these, of which many may be empty: a client waits for the first answer."""
CHUNKS_PER_PIECE: Final = 256
"""Of small ranges, read at a time by one thread."""
SCANNED_PAGES: Final = 1 << 26
"""Of a range, in one step of looking for what is populated, so that a call can end meanwhile: where
page tables are empty but there, that takes some 0.1 s."""
CHUNKS_AHEAD: Final = 2
"""Ready for a client that does not take them; then the reading stops."""
SETTLE_ROUNDS: Final = 4
"""How often entries that changed are read again before they are returned as unstable."""

# What a worker may use.
WORKER_DATA_BYTES: Final = 1 << 30
"""RLIMIT_DATA. RLIMIT_AS would be wrong: most of what an idle worker maps is never touched."""
WORKER_DESCRIPTORS: Final = 4_096
"""RLIMIT_NOFILE. The most connections, calls and reading threads that there may be take 3,820, of
which those of calls that each sweep all processes are 3,360 (tests/unit/test_config.py)."""
MOST_NICE: Final = 19
"""The kernel's own (MAX_NICE, linux/sched/prio.h). Below 0 a process would go before others."""
WORKER_LOCKED_BYTES: Final = 0
"""RLIMIT_MEMLOCK: nothing in a worker needs to be kept from swap."""
WORKER_QUEUE_BYTES: Final = 0
"""RLIMIT_MSGQUEUE: message queues outlive who made them. There is no RLIMIT_NPROC: it counts what
all workers have together, so that one could leave the others without threads."""
RELAY_BUFFER_BYTES: Final = 256 * 1024
"""One for each direction of a connection; a socket's own buffer holds about as much."""
THREAD_STACK_BYTES: Final = 512 * 1024
"""Relays and calls do not recurse; the default of 8 MB would count against RLIMIT_DATA."""
RETRY_SECONDS: Final = 1
"""The delay that RESOURCE_EXHAUSTED asks for: what is exhausted is freed by calls that end."""
