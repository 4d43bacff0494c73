# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what cowd costs, and against what. Nothing here is a test.

Runs as root, for the private daemon and the C programs; what asks the daemon and what is asked
about are processes of ordinary users.
"""
