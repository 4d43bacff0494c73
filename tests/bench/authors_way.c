/* SPDX-License-Identifier: Apache-2.0
 *
 * The author's way: pagemap by a large read, then a seek and a read of 8 bytes of kpageflags for
 * each page that is present.
 */
#include "reading.h"

static void read_pages(uint64_t first, uint64_t count)
{
	size_t bytes = count * sizeof(*entries), done = 0;

	reserve(count);
	if (lseek(pagemap, (off_t)(first * sizeof(*entries)), SEEK_SET) < 0)
		err(1, "pagemap");
	while (done < bytes) {
		ssize_t got = read(pagemap, (char *)entries + done, bytes - done);

		if (got <= 0)
			err(1, "pagemap after %zu bytes", done);
		done += (size_t)got;
	}
	for (uint64_t page = 0; page < count; page++) {
		flags[page] = 0;
		if (!(entries[page] & PRESENT))
			continue;
		off_t place = (off_t)((entries[page] & FRAME) * sizeof(*flags));

		if (lseek(kpageflags, place, SEEK_SET) != place)
			err(1, "kpageflags");
		if (read(kpageflags, &flags[page], sizeof(*flags)) != sizeof(*flags))
			err(1, "kpageflags at %jd", (intmax_t)place);
		reads++;
	}
	listed = count;
}
