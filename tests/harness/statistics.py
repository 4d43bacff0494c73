# SPDX-License-Identifier: Apache-2.0
"""A daemon whose statistics are never old ones."""

from harness.changed_zygote import in_zygote

__all__ = ["ANEW"]

ANEW = """
from cowdaemon.broker import pairs, statistics
pairs.STATISTICS_SECONDS = statistics.STATISTICS_SECONDS = 0.0
""" + in_zygote("""
from cowdaemon.worker import statistics_calls
statistics_calls.STATISTICS_SECONDS = 0.0
""")
"""For `start_daemon(change=...)`: whoever asks, sums are made anew."""
