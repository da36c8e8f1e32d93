/* SPDX-License-Identifier: MIT */
/* What `ptshare run` asks for, in environment variables, and what the kernel says. */
#include "preload.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef GRANULE_FILE	/* bench/preload.py has another, for kernels without this one */
#define GRANULE_FILE "/sys/kernel/mm/ptshare/granule"
#endif

/* Until the options are read nothing is large. */
size_t option_min_size = SIZE_MAX;
bool option_commit;
size_t granule;

/* One pattern after the other, each with its end; an empty one ends them. */
static char patterns[4096];

static size_t number_in(const char *path, size_t otherwise)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return otherwise;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	return length > 0 ? strtoull(text, NULL, 10) : otherwise;
}

void options_read(void)
{
	const char *only = getenv("PTSHARE_ONLY");
	const char *size = getenv("PTSHARE_MIN_SIZE");
	const char *log = getenv("PTSHARE_LOG");

	/* A kernel without the feature refuses each mapping anyway: no need to ask. */
	granule = number_in(GRANULE_FILE, 0);
	if (!granule || granule & (granule - 1))
		return;
	option_commit = number_in("/proc/sys/vm/overcommit_memory", 0) == 2;
	if (only && strlen(only) < sizeof(patterns) - 1) {
		strcpy(patterns, only);
		for (char *end = patterns; *end; end++)
			if (*end == '\n')
				*end = '\0';
	}
	if (log)
		log_open(log);
	option_min_size = size ? strtoull(size, NULL, 10) : 0;
	if (option_min_size < granule)
		option_min_size = granule;
}

bool options_want_name(const char *name)
{
	if (!*patterns)
		return true;
	for (const char *pattern = patterns; *pattern; pattern += strlen(pattern) + 1)
		if (!fnmatch(pattern, name, 0))
			return true;
	return false;
}
