# SPDX-License-Identifier: Apache-2.0
"""What a daemon is started with, as Daemon's `change`, to do as on kernels that lack things."""

WITHOUT_PLACEMENT = """
from cowdaemon.broker import server
from cowdaemon.system import namespaces, peercred
namespaces.can_ask_pidfd = lambda: False
server.place_by_pidfd = None
peercred._SO_PEERPIDFD = 30_000
"""
"""Before Linux 6.5 (SO_PEERPIDFD) and 6.11 (PIDFD_GET_USER_NAMESPACE): a child looks at /proc.

A broker that asks the pidfd nevertheless fails.
"""
WITHOUT_REFUSAL = """
from cowdaemon import wire
wire.refuse_descriptors = lambda end: False
"""
"""Before Linux 6.16 (SO_PASSRIGHTS) nobody can refuse to be sent descriptors."""
WITHOUT_PAGEMAP_SCAN = """
from cowdaemon.worker import features
features._has_pagemap_scan = lambda pagemap: False
"""
"""Before Linux 6.7 (PAGEMAP_SCAN), of a zygote: every entry is looked at; see changed_zygote.py."""
