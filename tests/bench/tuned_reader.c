/* SPDX-License-Identifier: Apache-2.0
 *
 * As fast as one thread in C gets with little trouble: large reads of pagemap, and kpageflags by
 * runs of consecutive frames in the order of the pages.
 */
#include "reading.h"

static void read_pages(uint64_t first, uint64_t count)
{
	reserve(count);
	while (listed < count) {
		size_t part = count - listed < PART_PAGES ? count - listed : PART_PAGES;

		read_words(pagemap, entries + listed, part, first + listed);
		read_runs(entries + listed, flags + listed, part);
		listed += part;
	}
}
