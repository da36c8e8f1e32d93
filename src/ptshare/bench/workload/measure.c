// SPDX-License-Identifier: MIT
/* Clock, counters, and what is printed. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Page faults of this process. */
long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

/* The number after a word in a file of /proc. */
static long number_in(const char *path, const char *word)
{
	char text[8192], *found;
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close(fd);
	if (got < 0)
		die(path);
	text[got] = 0;
	found = strstr(text, word);
	if (!found)
		die(word);
	return strtol(found + strlen(word), NULL, 10);
}

/* This process's page tables, of all levels, KiB. */
long own_tables(void)
{
	return number_in("/proc/self/status", "VmPTE:");
}

/* All page tables that there are, of all levels, KiB. */
long all_tables(void)
{
	/* What processors have counted for themselves is added up first. */
	int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY);
	char byte;

	if (fd >= 0) {
		if (read(fd, &byte, 1) < 0)
			die("stat_refresh");
		close(fd);
	}
	return number_in("/proc/meminfo", "PageTables:");
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t median(uint64_t *values, int count)
{
	qsort(values, count, sizeof(*values), by_value);
	return values[count / 2];
}

/* A line for each figure. */
void print(const char *name, double value)
{
	printf("%s %.3f\n", name, value);
}

void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", options.question, what, strerror(errno));
	_exit(1);
}

/* What is left to do for processes that have ended is done meanwhile, so that it is not in what comes next. */
void settle(void)
{
	usleep(50000);
}

/* What is measured next has its own code and stack in memory. */
void rehearse(void)
{
	void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	write_pages(at, PAGE);
	read_pages(at, PAGE);
	munmap(at, PAGE);
	settle();
	now();
	faults();
}
