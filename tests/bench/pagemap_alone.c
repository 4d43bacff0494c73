/* SPDX-License-Identifier: Apache-2.0
 *
 * One plain pass over the pagemap of a range, and nothing else: the flags are left as they are.
 */
#include "reading.h"

static void read_pages(uint64_t first, uint64_t count)
{
	(void)read_runs;
	reserve(count);
	for (uint64_t page = 0; page < count; page += PART_PAGES) {
		size_t part = count - page < PART_PAGES ? count - page : PART_PAGES;

		read_words(pagemap, entries + page, part, first + page);
	}
	listed = count;
}
