/* SPDX-License-Identifier: MIT */
/*
 * What madvise() and mlock() have made of parts of a mapping would be lost when
 * another takes its place. The kernel tells it, in /proc/self/smaps.
 */
#define _GNU_SOURCE
#include "share.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A line of smaps, byte by byte from a buffer: no stream, which would allocate. */
struct reader {
	int fd;
	ssize_t length, at;
	char buffer[2048];
};

static bool next_line(struct reader *reader, char *line, size_t size)
{
	size_t length = 0;

	for (;;) {
		if (reader->at >= reader->length) {
			reader->length = read(reader->fd, reader->buffer, sizeof(reader->buffer));
			reader->at = 0;
			if (reader->length <= 0)
				return false;
		}
		const char byte = reader->buffer[reader->at++];

		if (byte == '\n')
			break;
		if (length < size - 1)
			line[length++] = byte;
	}
	line[length] = '\0';
	return true;
}

/* proc_pid_smaps(5), VmFlags */
static const struct {
	const char *flag;
	int advice;
} ADVICE[] = {
	{ " dc", MADV_DONTFORK },
	{ " dd", MADV_DONTDUMP },
	{ " rr", MADV_RANDOM },
	{ " sr", MADV_SEQUENTIAL },
};

#define MANY (sizeof(ADVICE) / sizeof(*ADVICE))

void attributes_save(const struct region *region, struct attributes *saved)
{
	struct reader reader = {
		.fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC),
	};
	uintptr_t start = 0, end = 0;
	char line[512], *rest;

	saved->count = 0;
	if (reader.fd < 0)
		return;
	while (next_line(&reader, line, sizeof(line))) {
		if (!strncmp(line, "VmFlags:", 8)) {
			struct attribute *one = saved->of + saved->count;

			if (start < region->start || end > region->start + region->whole ||
			    saved->count == MAX_ATTRIBUTES)
				continue;
			*one = (struct attribute){ .start = start, .end = end };
			for (size_t which = 0; which < MANY; which++)
				if (strstr(line, ADVICE[which].flag))
					one->advice |= 1u << which;
			one->locked = strstr(line, " lo");
			if (one->advice || one->locked)
				saved->count++;
			continue;
		}
		/* "7f0000000000-7f0000001000 rw-s ...", or "Name: ..." */
		const uintptr_t first = strtoul(line, &rest, 16);

		if (*rest == '-') {
			start = first;
			end = strtoul(rest + 1, NULL, 16);
		}
	}
	close(reader.fd);
}

void attributes_restore(const struct region *region, const struct attributes *saved)
{
	for (const struct attribute *one = saved->of; one < saved->of + saved->count; one++) {
		uintptr_t end = one->end;

		if (end > region->start + region->length)
			end = region->start + region->length;
		if (end <= one->start)
			continue;
		for (size_t which = 0; which < MANY; which++)
			if (one->advice & 1u << which)
				real_madvise((void *)one->start, end - one->start,
					     ADVICE[which].advice);
		if (one->locked)
			real_mlock((void *)one->start, end - one->start);
	}
}
