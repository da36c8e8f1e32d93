// SPDX-License-Identifier: MIT
/*
 * One measurement: QUESTION [NAME=VALUE ...]. Prints a line for each figure, its name and its value.
 *
 * Times are in nanoseconds. Sizes are bytes, in units of KiB for page tables.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <unistd.h>

struct options options = {
	.size = GIB,
	.stride = PAGE,
	.processes = 1,
	.cpus = 1,
	.rounds = 1,
	.how = "",
};

static const struct {
	const char *name;
	void (*run)(void);
} questions[] = {
	{ "calls", calls },
	{ "warm", warm },	{ "leave", leave },	{ "tables", tables }, { "protect", protect },
	{ "fork", do_fork },	{ "reclaim", reclaim }, { "storm", storm },   { "cold", cold },
};

/* As ptshare.bench.methods calls them. */
static const char *const methods[] = {
	[ORDINARY] = "ordinary",   [HUGE] = "tmpfs-huge",     [HUGETLB] = "hugetlb",
	[SHARED_2M] = "shared-2m", [SHARED_1G] = "shared-1g", [THREADS] = "threads",
};

static void usage(const char *word)
{
	fprintf(stderr, "bench: what is %s?\n", word);
	exit(2);
}

static void set_method(const char *value)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
		if (!strcmp(methods[i], value)) {
			options.method = i;
			return;
		}
	}
	usage(value);
}

static void set(char *word)
{
	char *value = strchr(word, '=');

	if (!value)
		usage(word);
	*value++ = 0;
	if (!strcmp(word, "method"))
		set_method(value);
	else if (!strcmp(word, "size"))
		options.size = strtoul(value, NULL, 10);
	else if (!strcmp(word, "touched"))
		options.touched = strtoul(value, NULL, 10);
	else if (!strcmp(word, "stride"))
		options.stride = strtoul(value, NULL, 10);
	else if (!strcmp(word, "processes"))
		options.processes = atoi(value);
	else if (!strcmp(word, "cpus"))
		options.cpus = atoi(value);
	else if (!strcmp(word, "rounds"))
		options.rounds = atoi(value);
	else if (!strcmp(word, "dir"))
		options.dir = value;
	else if (!strcmp(word, "how"))
		options.how = value;
	else
		usage(word);
}

/* Where mappings are put, and so what a search for a place takes, is the same each time. */
static void settle_addresses(char **argv)
{
	int now = personality(0xffffffff);

	if (now < 0 || now & ADDR_NO_RANDOMIZE)
		return;
	if (personality(now | ADDR_NO_RANDOMIZE) >= 0)
		execv("/proc/self/exe", argv);
	die("personality");
}

int main(int argc, char **argv)
{
	if (argc < 2)
		usage("the question");
	options.question = argv[1];
	settle_addresses(argv);
	for (int i = 2; i < argc; i++)
		set(argv[i]);
	if (!options.touched)
		options.touched = options.size;
	if (options.processes < 1 || options.processes > MOST_PROCESSES || options.rounds < 1 ||
	    options.cpus < 1)
		usage("that number");
	for (size_t i = 0; i < sizeof(questions) / sizeof(*questions); i++) {
		if (!strcmp(questions[i].name, options.question)) {
			board_new();
			questions[i].run();
			return fflush(stdout) ? 1 : 0;
		}
	}
	usage(options.question);
}
