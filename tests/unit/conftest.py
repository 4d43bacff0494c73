# SPDX-License-Identifier: Apache-2.0
"""For the tests that draw their examples: no stop-watch, and the same examples wherever CI runs."""

import os

from hypothesis import settings

settings.register_profile("cowd", deadline=None, derandomize="COWD_REQUIRE_ALL" in os.environ)
settings.load_profile("cowd")
