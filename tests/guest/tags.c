/* SPDX-License-Identifier: MIT */
/*
 * tags FD TAG FIRST COUNT SEED: load and store words in COUNT pages of a file,
 * mapped with shared page tables, at random, while others truncate it.
 *
 * A word is 0, or says of which file and page it is. Whatever else is found
 * comes from memory that is no longer the file's.
 *
 * In C because loads and stores have to follow each other closely, so that one
 * of them meets a TLB entry that should be gone; and because SIGBUS has to be
 * survived. It rests now and then: where processors are emulated, those that
 * are always busy take long to answer the flushes of those that truncate.
 *
 * Prints the address of the mapping. At a line on standard input it stops and
 * prints how many loads and stores there were, how many were SIGBUS, and how
 * many words were foreign. At the next line it prints how many of the words
 * are not 0, and ends.
 */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MAP_SHARED_PT 0x200000
#define GRANULE (2ul << 20)
#define WORDS 512	/* of a page */

static sigjmp_buf again;

static void past_the_end(int number)
{
	(void)number;
	siglongjmp(again, 1);
}

static int told(void)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };

	return poll(&input, 1, 0) > 0;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = past_the_end, .sa_flags = SA_NODEFER };
	static volatile uint64_t accesses, refused, foreign, left;
	static uint64_t random;
	volatile uint64_t *words;
	uint64_t tag, first, count, size;
	char line[16];

	if (argc != 6)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	tag = strtoull(argv[2], NULL, 0) << 32;
	first = strtoull(argv[3], NULL, 0) * WORDS;
	count = strtoull(argv[4], NULL, 0) * WORDS;
	random = strtoull(argv[5], NULL, 0) * 2654435761u + 1;
	size = ((first + count) * sizeof(*words) + GRANULE - 1) & -GRANULE;
	words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_SHARED_PT,
		     atoi(argv[1]), 0);
	if (words == MAP_FAILED)
		return 1;
	printf("%llu\n", (unsigned long long)(uintptr_t)words);
	fflush(stdout);
	sigaction(SIGBUS, &action, NULL);

	if (sigsetjmp(again, 0))
		++refused;
	for (;;) {
		uint64_t at = first + next(&random) % count;
		uint64_t own = tag | at / WORDS, found;

		if (++accesses % 1024 == 0) {
			if (told())
				break;
			/* A link that was dropped is made again, in the middle of it all. */
			madvise((void *)words, size, MADV_DONTNEED);
			usleep(2000);
		}
		found = words[at];
		if (found && found != own)
			++foreign;
		words[at] = own;
		/* The same translation once more, a little later. */
		found = words[at];
		if (found && found != own)
			++foreign;
	}
	printf("%llu %llu %llu\n", (unsigned long long)accesses,
	       (unsigned long long)refused, (unsigned long long)foreign);
	fflush(stdout);

	if (!fgets(line, sizeof(line), stdin) || !fgets(line, sizeof(line), stdin))
		return 1;
	if (sigsetjmp(again, 0))
		return 1;
	for (uint64_t at = first; at < first + count; at++)
		left += words[at] != 0;
	printf("%llu\n", (unsigned long long)left);
	return 0;
}
