# SPDX-License-Identifier: Apache-2.0
"""What a zygote is started with to do with a few pages what it does with millions.

See changed_zygote.py. Nothing is done in another way, only in more steps.
"""

SMALL_STEPS = """
from cowdaemon import limits
limits.PAGES_PER_CALL = 8
limits.WINDOW_PAGES = 20
limits.CHUNKS_PER_PIECE = 3
limits.SCANNED_PAGES = 12
from cowdaemon.worker import few_pages
few_pages.FEW_PAGES = 0
from cowdaemon.worker import pagemap
pagemap.JOINED_PAGES = 1
from cowdaemon.worker import comparison_stream, kpageflags, page_scan, page_stream
comparison_stream._PAGES_AT_ONCE = 3
page_scan._REGIONS, page_scan._STEP_PAGES = 3, 4
page_stream._FEW_STRETCHES = 2
"""
SCATTERED = """
kpageflags._FEW_FRAMES, kpageflags._FRAMES_OF_A_RUN = 0, 1 << 30
kpageflags._WORDS_AT_ONCE, kpageflags._BLOCKS_OF_A_READ = 64, 1
"""
"""After SMALL_STEPS: hardly any frames are read as runs, and blocks in several passes."""
