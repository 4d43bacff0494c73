/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pages of my private file mapping have been copied? Asked of the kernel, without cowd.
 *
 * Usage: copied FILE      maps four pages of it, which it only reads: the file stays as it is
 *
 * Since Linux 4.2 a process may read its own /proc/self/pagemap, where bit 61 says "the file's own
 * page", 62 "swapped" and 63 "present". A page that is there, but not as the file's, is a copy.
 *
 * What this cannot tell, and cowd can:
 * - the kernel's flags of a page, and so whether it is dirty, merged, part of a huge page ...;
 * - the zero page from a copy. No file on a disk or tmpfs maps it, but a hole of a DAX file does,
 *   and anonymous memory. The ioctl PAGEMAP_SCAN tells it apart, on Linux 6.7 and newer;
 * - a swapped page from a marker that says "swapped" and is none: of userfaultfd's write protection,
 *   of a poisoned page, of a guard region (bit 58 is one as well, on Linux 6.15 and newer).
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 4

int main(int argc, char *argv[])
{
	if (argc != 2)
		errx(2, "usage: copied FILE");

	long page_bytes = sysconf(_SC_PAGESIZE);
	int file = open(argv[1], O_RDONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (file < 0 || pagemap < 0)
		err(1, "cannot open %s", file < 0 ? argv[1] : "/proc/self/pagemap");
	if (lseek(file, 0, SEEK_END) <= (PAGES - 1) * page_bytes)
		errx(1, "%s is shorter than %d pages: name a longer file", argv[1], PAGES);

	volatile char *memory = mmap(NULL, (size_t)(PAGES * page_bytes), PROT_READ | PROT_WRITE,
				     MAP_PRIVATE, file, 0);
	if (memory == MAP_FAILED)
		err(1, "cannot map %s", argv[1]);
	memory[0] = 'w';
	memory[2 * page_bytes] = 'w';
	(void)memory[3 * page_bytes];

	uint64_t entries[PAGES];
	off_t offset = (off_t)((uintptr_t)memory / (uintptr_t)page_bytes * sizeof(entries[0]));
	if (pread(pagemap, entries, sizeof(entries), offset) != (ssize_t)sizeof(entries))
		err(1, "cannot read /proc/self/pagemap");
	puts("PAGE COPIED");
	for (int page = 0; page < PAGES; page++) {
		int is_here = (entries[page] >> 62) != 0; /* present or swapped */
		int is_the_files = entries[page] >> 61 & 1;

		printf("%4d %s\n", page, is_here && !is_the_files ? "yes" : "no");
	}
	return 0;
}
