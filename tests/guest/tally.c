/* SPDX-License-Identifier: MIT */
/*
 * tally FD PAGES SLOT PAUSE: count up in a slot of each of the first pages of a
 * file, mapped with shared page tables, round after round, and check before
 * each store that the slot has what was stored last. Between rounds is a pause
 * in microseconds, which leaves the processor to others; it forgets no
 * translation meanwhile. It says "ready", and begins when the file has a size.
 * At SIGTERM print the count. A slot that has something else is printed at
 * once, and ends it with status 1.
 *
 * A store by way of a translation that is no longer valid is lost, and so is
 * what a page held if it was taken away before all stores had arrived.
 *
 * In C because the translations have to be used all the time.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MAP_SHARED_PT 0x200000
#define GRANULE (2 << 20)
#define WORDS (4096 / sizeof(uint64_t))
#define STORES 16

static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

int main(int argc, char **argv)
{
	uint64_t pages, page, slot, count, n;
	volatile uint64_t *words;
	useconds_t pause;

	if (argc != 5)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, end);
	pages = strtoull(argv[2], NULL, 10);
	slot = strtoull(argv[3], NULL, 10);
	pause = strtoul(argv[4], NULL, 10);
	words = mmap(NULL, GRANULE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_SHARED_PT, atoi(argv[1]), 0);
	if (words == MAP_FAILED)
		return 2;
	puts("ready");
	fflush(stdout);
	while (!lseek(atoi(argv[1]), 0, SEEK_END))
		usleep(1000);
	/* It ends with a whole round, so that the count is that of each page. */
	for (count = 0; !ended; count += STORES) {
		if (pause)
			usleep(pause);
		for (page = 0; page < pages; page++) {
			volatile uint64_t *word = words + page * WORDS + slot;
			/* No two slots of a file ever have the same. */
			const uint64_t tag = (page * WORDS + slot) << 32;

			for (n = count; n < count + STORES; n++) {
				uint64_t stored = n ? tag + n : 0;
				uint64_t found = *word;

				if (found != stored) {
					printf("page %" PRIu64 ", slot %" PRIu64
					       ": %" PRIx64 " stored, %" PRIx64
					       " found\n", page, slot, stored, found);
					return 1;
				}
				*word = tag + n + 1;
			}
		}
	}
	printf("%" PRIu64 "\n", count);
	return 0;
}
