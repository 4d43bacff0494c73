# SPDX-License-Identifier: Apache-2.0
"""What the standard library lacks of the kernel: each a thin wrapper that decides nothing.

Used in every process, with whatever privilege that has. Standard library only.
"""
