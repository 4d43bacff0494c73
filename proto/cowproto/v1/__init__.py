# SPDX-License-Identifier: Apache-2.0
"""Generated from proto/cowd: `make proto` writes it, nobody edits it."""
