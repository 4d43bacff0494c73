/* SPDX-License-Identifier: Apache-2.0
 *
 * The author's method, as root: /proc/PID/pagemap gives the frame of each page, /proc/kpageflags
 * the flags of each frame. The tests' second source; shares nothing with cowd.
 *
 * Usage: authors_method PID ADDRESS COUNT
 * Prints a line for each page: its pagemap entry and its frame's flags, both in hex; the flags are
 * "-" where no page is present.
 */
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PRESENT (UINT64_C(1) << 63)
#define FRAME ((UINT64_C(1) << 55) - 1)

static uint64_t read_word(int fd, uint64_t index, const char *what)
{
	uint64_t word;
	ssize_t got = pread(fd, &word, sizeof(word), (off_t)(index * sizeof(word)));

	if (got < 0)
		err(1, "%s at %" PRIu64, what, index);
	if (got != (ssize_t)sizeof(word))
		errx(1, "%s at %" PRIu64 ": %zd bytes", what, index, got);
	return word;
}

int main(int argc, char *argv[])
{
	if (argc != 4)
		errx(2, "usage: authors_method PID ADDRESS COUNT");

	char path[64];
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t first = strtoull(argv[2], NULL, 0) / page_bytes;
	uint64_t count = strtoull(argv[3], NULL, 0);

	snprintf(path, sizeof(path), "/proc/%ld/pagemap", strtol(argv[1], NULL, 10));
	int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		err(1, "%s", path);
	int kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (kpageflags < 0)
		err(1, "/proc/kpageflags");

	for (uint64_t page = 0; page < count; page++) {
		uint64_t entry = read_word(pagemap, first + page, path);

		printf("%" PRIx64 " ", entry);
		if (entry & PRESENT)
			printf("%" PRIx64 "\n", read_word(kpageflags, entry & FRAME, "kpageflags"));
		else
			puts("-");
	}
	return 0;
}
