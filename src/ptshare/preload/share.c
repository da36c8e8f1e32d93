/* SPDX-License-Identifier: MIT */
/* Mappings that share their page tables are made here, and turned back into ordinary ones. */
#define _GNU_SOURCE
#include "share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Descriptors of this library are kept out of the program's way: programs take
 * the lowest for granted, and few look as far as here.
 */
#define FIRST_DESCRIPTOR 200

/* The highest descriptor of the program that is looked at. */
#define MANY_DESCRIPTORS 4096

/* The name that /proc/PID/maps has for an open file. */
static void name_of(int fd, char *name)
{
	char link[32];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, name, NAME_SIZE - 1);
	name[length > 0 ? length : 0] = '\0';
}

/* A descriptor of @size bytes of new memory, -1: none. */
static int new_memory(size_t size)
{
	const int low = memfd_create("ptshare", MFD_CLOEXEC);
	int high;

	if (low < 0)
		return -1;
	if (ftruncate(low, size)) {
		close(low);
		return -1;
	}
	high = fcntl(low, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);
	if (high < 0)
		return low;
	close(low);
	return high;
}

/* Is @fd open, and of the file that the region maps? Programs close all they find. */
static bool is_of(int fd, const struct region *region)
{
	struct stat status;

	return fd >= 0 && !fstat(fd, &status) && status.st_dev == region->dev &&
	       status.st_ino == region->ino;
}

/* Map at the kernel and note the region; MAP_FAILED, with the lock held. */
static void *map_region(struct region *like, void *addr, int flags, int fd)
{
	struct region *region;
	void *at;

	/* Before anything is mapped in the place of something else. */
	if (regions_full()) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	at = real_mmap(addr, like->whole, like->prot, flags | MAP_SHARED_PT, fd, like->offset);
	if (at == MAP_FAILED)
		return at;
	region = (uintptr_t)at % granule ? NULL : regions_add((uintptr_t)at, like->whole);
	if (!region) {
		/* A kernel that ignores the flag. */
		real_munmap(at, like->whole);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	like->start = (uintptr_t)at;
	*region = *like;
	regions_moved(region);
	return at;
}

void *share_map(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	const int type = flags & ~(MAP_TYPE | MAP_ANONYMOUS);
	struct region like = {
		.length = round_up(length, sysconf(_SC_PAGESIZE)),
		.whole = round_up(length, granule),
		.offset = offset,
		.prot = prot,
		.shared = true,
		.fd = -1,
	};
	struct stat status;
	struct state saved;
	void *at;

	if (flags & MAP_ANONYMOUS) {
		strcpy(like.name, "anonymous");
		like.offset = 0;
		like.writable = true;
	} else {
		if (fstat(fd, &status) || !S_ISREG(status.st_mode))
			return MAP_FAILED;
		name_of(fd, like.name);
		like.dev = status.st_dev;
		like.ino = status.st_ino;
		like.writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
	}
	if (!options_want_name(like.name))
		return MAP_FAILED;

	regions_lock(&saved);
	if (flags & MAP_FIXED) {
		share_prepare((uintptr_t)addr, (uintptr_t)addr + like.whole, false, "mmap");
		if (regions_next((uintptr_t)addr, (uintptr_t)addr + like.whole, NULL)) {
			/* One in the place of another: not worth the care it would need. */
			regions_unlock(&saved);
			return MAP_FAILED;
		}
	}
	if (!(flags & MAP_ANONYMOUS)) {
		at = map_region(&like, addr, type | MAP_SHARED_VALIDATE, fd);
	} else if (option_commit) {
		/* A file's memory is promised to nobody before it is used. */
		at = map_region(&like, addr, type | MAP_SHARED | MAP_ANONYMOUS, -1);
	} else {
		/* A file, so that there is a way back to ordinary page tables. */
		fd = like.fd = new_memory(like.length);
		if (fd < 0 || fstat(fd, &status)) {
			at = MAP_FAILED;
		} else {
			like.dev = status.st_dev;
			like.ino = status.st_ino;
			at = map_region(&like, addr, type | MAP_SHARED_VALIDATE, fd);
		}
		if (at == MAP_FAILED && fd >= 0)
			close(fd);
	}
	regions_unlock(&saved);
	if (at == MAP_FAILED)
		log_refused(like.name, length, errno);
	else
		log_shared(&like);
	return at;
}

/* The file of a mapping, by the kernel's link to it, for which one must be privileged. */
static int open_mapped(uintptr_t start, uintptr_t end, bool writable)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/map_files/%lx-%lx", start, end);
	return open(link, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
}

void *share_segment(uintptr_t anchor, size_t length, int prot)
{
	struct region like = {
		.length = round_up(length, sysconf(_SC_PAGESIZE)),
		.whole = round_up(length, granule),
		.prot = prot,
		.shared = true,
		.writable = prot & PROT_WRITE,
		.anchor = anchor,
		.name = "sysv",
	};
	struct stat status;
	struct state saved;
	void *at = MAP_FAILED;

	if (!options_want_name(like.name))
		return MAP_FAILED;
	like.fd = open_mapped(anchor, anchor + like.length, like.writable);
	if (like.fd >= 0 && !fstat(like.fd, &status)) {
		const int high = fcntl(like.fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);

		if (high >= 0) {
			close(like.fd);
			like.fd = high;
		}
		like.dev = status.st_dev;
		like.ino = status.st_ino;
		regions_lock(&saved);
		at = map_region(&like, NULL, MAP_SHARED_VALIDATE, like.fd);
		regions_unlock(&saved);
	}
	if (at == MAP_FAILED) {
		const int error = errno;

		if (like.fd >= 0)
			close(like.fd);
		log_refused(like.name, length, error);
	} else {
		log_shared(&like);
	}
	return at;
}

/*
 * A descriptor for mapping the region's file anew. Closing one of a file makes
 * the process lose its locks on it (fcntl(2)), and one that is kept open would
 * hold others (flock(2)): so it is the library's own where the program cannot
 * know the file, else one that the program has, and only then a new one, which
 * then stays open.
 */
static int descriptor_of(const struct region *region)
{
	/* One of O_PATH counts as readable by its mode alone. */
	const int mode = region->writable ? O_RDWR : O_RDONLY, bits = O_ACCMODE | O_PATH;
	struct stat status;
	int fd;

	if (is_of(region->fd, region))
		return region->fd;
	if (region->dev || region->ino) {
		for (fd = 0; fd < MANY_DESCRIPTORS; fd++)
			if (is_of(fd, region) && (fcntl(fd, F_GETFL) & bits) == mode)
				return fd;
	}
	fd = open_mapped(region->start, region->start + region->whole, region->writable);
	if (fd >= 0)
		return fd;
	/* Another file that has taken its place is not even opened: it has locks, too. */
	if (*region->name != '/' || stat(region->name, &status) ||
	    status.st_dev != region->dev || status.st_ino != region->ino)
		return -1;
	fd = open(region->name, mode | O_CLOEXEC | O_NONBLOCK);
	return is_of(fd, region) ? fd : -1;
}

void share_release(struct region *region)
{
	if (region->anchor)
		real_shmdt((void *)region->anchor);
	if (is_of(region->fd, region))
		close(region->fd);
	regions_drop(region);
}

int share_convert(struct region *region, const char *call)
{
	void *const start = (void *)region->start;
	const int fd = descriptor_of(region);
	struct attributes attributes = { 0 };

	if (region->advised)
		attributes_save(region, &attributes);
	if (fd < 0 || real_mmap(start, region->whole, region->prot, MAP_SHARED | MAP_FIXED,
				fd, region->offset) == MAP_FAILED)
		return -1;
	if (region->whole > region->length)
		real_munmap((char *)start + region->length, region->whole - region->length);
	attributes_restore(region, &attributes);
	log_converted(region, call);
	region->shared = false;
	region->whole = region->length;
	regions_moved(region);
	if (!region->anchor)	/* of which shmdt() is still to come */
		share_release(region);
	return 0;
}

uintptr_t share_prepare(uintptr_t start, uintptr_t end, bool further, const char *call)
{
	uintptr_t last = end;

	for (struct region *region = NULL; (region = regions_next(start, end, region));) {
		const uintptr_t whole_end = region->start + region->whole;
		const bool to_its_end = further && end >= region->start + region->length;

		if (!region->shared)
			continue;
		if ((start > region->start && start % granule) ||
		    (end < whole_end && end % granule && !to_its_end))
			share_convert(region, call);
		else if (to_its_end && last < whole_end)
			last = whole_end;
	}
	return last;
}

/* Cut [start, end) out of a region that reaches beyond it on at least one side. */
static void cut(struct region *region, uintptr_t start, uintptr_t end)
{
	const uintptr_t region_end = region->start + region->length;

	if (start > region->start && end < region_end) {
		const uintptr_t whole_end = region->start + region->whole;
		struct region *right = regions_add(end, whole_end - end);

		if (right) {
			*right = *region;
			right->start = end;
			right->whole = whole_end - end;
			right->length = region_end - end;
			right->offset += end - region->start;
			right->anchor = 0;	/* the left one has it */
			regions_moved(right);
			right->fd = is_of(region->fd, region) ?
				    fcntl(region->fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR) : -1;
		}
		/* Without a place in the table it goes on as what the kernel lets it be. */
	}
	if (start > region->start) {
		region->length = region->whole = start - region->start;
	} else {
		region->length = region_end - end;
		region->whole -= end - region->start;
		region->offset += end - region->start;
		region->start = end;
	}
	regions_moved(region);
}

void share_forget(uintptr_t start, uintptr_t end, const struct region *except)
{
	for (struct region *region = NULL; (region = regions_next(start, end, region));) {
		if (region == except)
			continue;
		if (start <= region->start && end >= region->start + region->length)
			share_release(region);
		else
			cut(region, start, end);
	}
}

void share_after_fork(void)
{
	unsigned char vector[4096];

	for (struct region *region = NULL;
	     (region = regions_next(0, UINTPTR_MAX, region));) {
		const uintptr_t start = region->start, end = start + region->whole;

		if (!region->advised || granule / sysconf(_SC_PAGESIZE) > sizeof(vector))
			continue;
		for (uintptr_t at = start; at < end; at += granule) {
			const size_t length = end - at < granule ? end - at : granule;

			if (mincore((void *)at, length, vector) && errno == ENOMEM)
				share_forget(at, at + length, NULL);
		}
	}
}
