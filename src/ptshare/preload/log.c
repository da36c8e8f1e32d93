/* SPDX-License-Identifier: MIT */
/*
 * What is told to `ptshare run --report`: a line for each thing, its fields
 * separated by tabs, in a file that is opened for each. A descriptor kept open
 * would be in the way of programs that close all that they do not know.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define ESCAPED_SIZE (4 * NAME_SIZE)

static char log_path[NAME_SIZE];

void log_open(const char *path)
{
	if (strlen(path) < sizeof(log_path))
		strcpy(log_path, path);
}

__attribute__((format(printf, 2, 3)))
static void tell(const char *what, const char *format, ...)
{
	const int error = errno;
	char command[16] = "", line[ESCAPED_SIZE + 128];
	va_list arguments;
	int length, fd, cancel;

	if (!*log_path)
		return;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	prctl(PR_GET_NAME, command);
	for (char *at = command; *at; at++)
		if (*at == '\t' || *at == '\n')
			*at = '?';
	length = snprintf(line, sizeof(line), "%s\t%d\t%.15s", what, getpid(), command);
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - length, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(line) - 1)
		length = sizeof(line) - 1;
	line[length++] = '\n';
	/* One write, so that lines of several processes do not mix. */
	fd = open(log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (fd >= 0) {
		if (write(fd, line, length) != length)
			*log_path = '\0';	/* the disk is full, say: no half lines */
		close(fd);
	}
	pthread_setcancelstate(cancel, NULL);
	errno = error;
}

void log_start(void)
{
	tell("start", "%s", "");
}

/* The number of kB in a line of /proc/self/status. */
static long status_kb(const char *status, const char *name)
{
	const char *line = strstr(status, name);

	return line ? strtol(line + strlen(name), NULL, 10) : -1;
}

void log_end(void)
{
	char status[4096];
	ssize_t length;
	int fd;

	if (!*log_path)
		return;
	fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	length = read(fd, status, sizeof(status) - 1);
	close(fd);
	status[length > 0 ? length : 0] = '\0';
	tell("end", "\t%ld\t%ld", status_kb(status, "\nVmPTE:"),
	     status_kb(status, "\nVmSharedPT:"));
}

/* A name as /proc/PID/maps writes it, so that it takes one line; and one field. */
static const char *escaped(const char *name, char *into)
{
	char *at = into;

	for (; *name; name++) {
		if (*name == '\n' || *name == '\t')
			at += sprintf(at, "\\%03o", *name);
		else
			*at++ = *name;
	}
	*at = '\0';
	return into;
}

void log_shared(const struct region *region)
{
	char name[ESCAPED_SIZE];

	tell("shared", "\t%zu\t%s", region->length, escaped(region->name, name));
}

void log_refused(const char *name, size_t length, int error)
{
	char printed[ESCAPED_SIZE];

	tell("refused", "\t%zu\t%d\t%s", length, error, escaped(name, printed));
}

void log_converted(const struct region *region, const char *call)
{
	char name[ESCAPED_SIZE];

	tell("converted", "\t%zu\t%s\t%s", region->length, call,
	     escaped(region->name, name));
}
