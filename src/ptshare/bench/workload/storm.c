// SPDX-License-Identifier: MIT
/*
 * Processes, or threads, are all there and start at once, on all processors; each maps a region that one of
 * them holds warm, and touches all of it. From the start to the last one's end of it.
 */
#include "bench.h"

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
	wait_for(&board->leave, 1);
}

void storm(void)
{
	int fd = region_open();

	pin(0);
	if (options.method == THREADS) {
		common = region_map(fd);
		region_write(common);
		region_read(common);
	} else {
		begin(hold_region, 0, fd);
		wait_for(&board->ready, 1);
	}
	together(work, fd);
}
