// SPDX-License-Identifier: MIT
/*
 * A process with a region mapped and touched forks: how long is it in the call, how long until the child runs,
 * and what does it cost the child to touch the region, which fork leaves to its faults?
 */
#define _GNU_SOURCE
#include "bench.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

static void child(int number, int fd)
{
	(void)number;
	(void)fd;
	_exit(0);
}

void do_fork(void)
{
	uint64_t forked[MOST_PROCESSES], ran[MOST_PROCESSES], touched[MOST_PROCESSES];
	const struct sched_param first = { .sched_priority = 1 };
	void *at = region_map(region_open());

	region_write(at);
	region_read(at);
	/* Whoever runs is not interrupted by the other: the parent first, then the child. */
	pin(0);
	if (sched_setscheduler(0, SCHED_FIFO, &first) && getuid() == 0)
		die("sched_setscheduler");
	/* The first fork makes pages of this process's own data copies. */
	begin(child, 0, -1);
	crew_end();
	for (int i = 0; i < options.rounds; i++) {
		uint64_t start;
		pid_t pid;

		settle();
		start = now();
		pid = fork();

		if (pid < 0)
			die("fork");
		if (!pid) {
			struct result *result = &board->results[i];
			long before;

			result->end = now() - start;
			rehearse();
			before = faults();
			start = now();
			region_read(at);
			result->touch = now() - start;
			result->faults = faults() - before;
			_exit(0);
		}
		forked[i] = now() - start;
		crew_end();
		ran[i] = board->results[i].end;
		touched[i] = board->results[i].touch;
	}
	print("fork_ns", median(forked, options.rounds));
	print("child_runs_ns", median(ran, options.rounds));
	print("child_touch_ns", median(touched, options.rounds));
	print("child_faults", board->results[0].faults);
}
