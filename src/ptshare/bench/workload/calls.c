// SPDX-License-Identifier: MIT
/*
 * What each call, and each fault, takes by itself: of a small region all of which is in memory, mapped by another
 * process, too. Done many times by one process; the median counts.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* A fault maps the pages around it, too, so many bytes. */
#define FAULT_AROUND (16 * PAGE)

/* For each fault. */
static uint64_t faulted(char *at, bool write)
{
	long before = faults(), taken;
	uint64_t start = now(), took;

	if (write)
		write_pages(at, options.size);
	else
		read_pages(at, options.size);
	took = now() - start;
	taken = faults() - before;
	return taken ? took / taken : 0;
}

static uint64_t anonymous(void)
{
	size_t stride = options.stride;
	uint64_t each;
	char *at = mmap(NULL, options.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("mmap");
	/* A huge page would be one fault. */
	madvise(at, options.size, MADV_NOHUGEPAGE);
	options.stride = PAGE;
	each = faulted(at, true);
	options.stride = stride;
	munmap(at, options.size);
	return each;
}

static uint64_t forked(void)
{
	uint64_t start = now(), took;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid)
		_exit(0);
	took = now() - start;
	if (waitpid(pid, NULL, 0) != pid)
		die("wait");
	return took;
}

static uint64_t protected(void *at, int protection)
{
	uint64_t start = now();

	if (mprotect(at, options.size, protection))
		die("mprotect");
	return now() - start;
}

void calls(void)
{
	static uint64_t map[MOST_PROCESSES], fault[MOST_PROCESSES], anon[MOST_PROCESSES], take[MOST_PROCESSES],
		give[MOST_PROCESSES], forks[MOST_PROCESSES], unmap[MOST_PROCESSES];
	const struct sched_param first = { .sched_priority = 1 };
	int fd = region_open();

	begin(hold_region, 0, fd);
	wait_for(&board->ready, 1);
	pin(0);
	/* The parent is not interrupted by its child. */
	if (sched_setscheduler(0, SCHED_FIFO, &first) && getuid() == 0)
		die("sched_setscheduler");
	settle();
	options.stride = FAULT_AROUND;
	for (int i = 0; i < options.rounds; i++) {
		uint64_t start = now();
		char *at = region_map(fd);

		map[i] = now() - start;
		fault[i] = faulted(at, false);
		take[i] = protected(at, PROT_READ);
		give[i] = protected(at, PROT_READ | PROT_WRITE);
		forks[i] = forked();
		start = now();
		if (munmap(at, options.size))
			die("munmap");
		unmap[i] = now() - start;
		anon[i] = anonymous();
	}
	set_all(&board->leave, 1);
	print("map_ns", median(map, options.rounds));
	print("fault_ns", median(fault, options.rounds));
	print("anonymous_ns", median(anon, options.rounds));
	print("take_ns", median(take, options.rounds));
	print("give_ns", median(give, options.rounds));
	print("fork_ns", median(forks, options.rounds));
	print("munmap_ns", median(unmap, options.rounds));
}
