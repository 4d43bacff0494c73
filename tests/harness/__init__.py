# SPDX-License-Identifier: Apache-2.0
"""What the tests with a real daemon stand on: the daemon, its processes, programs of other users.

Runs as root in the test process. Nothing here mocks the kernel, and nothing here imports the
daemon's own modules but its table of reasons and limits.
"""
