// SPDX-License-Identifier: MIT
/*
 * A new process maps a region that others use, and touches every page of it: what does that cost it?
 *
 * For threads the new one is a thread of the process that has the region; it maps nothing.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <sys/wait.h>

static void touch(void *at, struct result *result)
{
	uint64_t start = now();

	region_read(at);
	result->touch = now() - start;
	start = now();
	region_read(at);
	result->again = now() - start;
}

static int turn;

static void *thread(void *at)
{
	touch(at, &board->results[turn]);
	return NULL;
}

/* Has the region until told to leave. */
static void hold(int number, int fd)
{
	void *at = region_map(fd);
	pthread_t id;

	(void)number;
	region_write(at);
	region_read(at);
	add_one(&board->ready);
	if (options.method == THREADS) {
		for (int i = 0; i < options.rounds; i++) {
			long before = faults();

			turn = i;
			if (pthread_create(&id, NULL, thread, at) || pthread_join(id, NULL))
				die("a thread");
			board->results[i].faults = faults() - before;
			add_one(&board->done);
		}
	}
	wait_for(&board->leave, 1);
}

static void join(int number, int fd)
{
	struct result *result = &board->results[number];
	long before, faulted;
	uint64_t start;
	void *at;

	rehearse();
	result->tables = -own_tables();
	before = faults();
	start = now();
	at = region_map(fd);
	result->map = now() - start;
	touch(at, result);
	faulted = faults();
	result->faults = faulted - before;
	result->tables += own_tables();
	add_one(&board->done);
	wait_for(&board->go, number + 1);
}

void warm(void)
{
	uint64_t map[MOST_PROCESSES], touched[MOST_PROCESSES], again[MOST_PROCESSES];
	int fd = region_open(), rounds = options.rounds;

	begin(hold, 0, fd);
	wait_for(&board->ready, 1);
	for (int i = 0; i < rounds; i++) {
		pid_t pid = options.method == THREADS ? 0 : begin(join, i, fd);

		wait_for(&board->done, i + 1);
		set_all(&board->go, i + 1);
		/* Its end takes as long as its beginning, and must not be in the next one's. */
		if (pid && waitpid(pid, NULL, 0) != pid)
			die("wait");
		map[i] = board->results[i].map;
		touched[i] = board->results[i].touch;
		again[i] = board->results[i].again;
	}
	set_all(&board->leave, 1);
	crew_end();
	print("map_ns", median(map, rounds));
	print("touch_ns", median(touched, rounds));
	print("again_ns", median(again, rounds));
	print("faults", board->results[rounds - 1].faults);
	print("tables_kib", board->results[rounds - 1].tables);
}
