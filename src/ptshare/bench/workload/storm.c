// SPDX-License-Identifier: MIT
/*
 * Processes, or threads, are all there and start at once, on all processors; each maps a region that one of
 * them holds warm, and touches all of it. From the start to the last one's end of it.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>

static void *common;

static void work(int number, int fd)
{
	long before;

	pin(number);
	rehearse();
	add_one(&board->ready);
	wait_for(&board->go, 1);
	before = faults();
	region_read(common ? common : region_map(fd));
	board->results[number].faults = faults() - before;
	add_one(&board->done);
	/* The end of the first must not be in the time of the last. */
	wait_for(&board->leave, 1);
}

static void *thread(void *number)
{
	work((intptr_t)number, -1);
	return NULL;
}

void storm(void)
{
	int fd = region_open(), threads = options.method == THREADS;
	pthread_attr_t attributes;
	long faulted = 0;
	uint64_t start;
	pthread_t id;

	pin(0);
	if (threads) {
		common = region_map(fd);
		region_write(common);
		region_read(common);
		add_one(&board->ready);
		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, 16 * PAGE);
	} else {
		begin(hold_region, 0, fd);
	}
	wait_for(&board->ready, 1);
	for (int i = 0; i < options.processes; i++) {
		if (!threads)
			begin(work, i, fd);
		else if (pthread_create(&id, &attributes, thread, (void *)(intptr_t)i))
			die("a thread");
	}
	wait_for(&board->ready, options.processes + 1);
	start = now();
	set_all(&board->go, 1);
	wait_for(&board->done, options.processes);
	print("all_ns", now() - start);
	for (int i = 0; i < options.processes; i++)
		faulted += board->results[i].faults;
	set_all(&board->leave, 1);
	print("faults", threads ? board->results[0].faults : faulted);
}
