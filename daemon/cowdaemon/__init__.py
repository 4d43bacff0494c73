# SPDX-License-Identifier: Apache-2.0
"""The daemon: tells unprivileged programs which of their pages have been copied.

A folder is a privilege domain. `broker` runs as root and parses nothing that a client sent;
`worker` runs without privilege and does all the rest. They never import each other, and share
`wire`, `errors` and `limits`, which hold values and no I/O beyond a message on a socket, and
`system`, which wraps the kernel and decides nothing.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
