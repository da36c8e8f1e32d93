/* SPDX-License-Identifier: MIT */
/*
 * The calls that the program makes in the place of the C library's. Each one
 * that is no business of this library goes on to the real one at once.
 */
#define _GNU_SOURCE
#include "share.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

__attribute__((constructor)) static void start(void)
{
	real_resolve();
	options_read();
	log_start();
}

__attribute__((destructor)) static void end(void)
{
	log_end();
}

static uintptr_t page_end(const void *addr, size_t length)
{
	return (uintptr_t)addr + round_up(length, sysconf(_SC_PAGESIZE));
}

static bool touches(const void *addr, size_t length)
{
	return length && regions_touch((uintptr_t)addr, page_end(addr, length));
}

/* Is it a large shared mapping that may share its page tables? */
static bool wanted(const void *addr, size_t length, int prot, int flags, off_t offset)
{
	const int type = flags & MAP_TYPE;

	if (length < option_min_size || length > SIZE_MAX / 2)
		return false;
	if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE)
		return false;
	/* Who asks for it knows what it means, and is not to be helped. */
	if (flags & MAP_SHARED_PT)
		return false;
	if (flags & (MAP_HUGETLB | MAP_SYNC | MAP_GROWSDOWN))
		return false;
	/* Address space to be filled later; code. */
	if (!(prot & (PROT_READ | PROT_WRITE)) || prot & PROT_EXEC)
		return false;
	if (!(flags & MAP_ANONYMOUS) && offset % granule)
		return false;
	return !(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) ||
	       !((uintptr_t)addr % granule || length % granule);
}

/*
 * Whoever maps right behind a region finds memory there that the program knows
 * nothing of, up to the end of the granule.
 */
static void free_tails(uintptr_t start, uintptr_t end)
{
	for (struct region *region = NULL; (region = regions_next(start, end, region));)
		if (region->shared && start >= region->start + region->length)
			share_convert(region, "mmap");
}

PUBLIC void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	const bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) && touches(addr, length);
	const int error = errno;
	struct state saved;
	void *at;

	if (wanted(addr, length, prot, flags, offset)) {
		at = share_map(addr, length, prot, flags, fd, offset);
		if (at != MAP_FAILED)
			return at;
		errno = error;
	}
	if (!fixed)
		return real_mmap(addr, length, prot, flags, fd, offset);
	regions_lock(&saved);
	if (flags & MAP_FIXED_NOREPLACE)
		free_tails((uintptr_t)addr, page_end(addr, length));
	else
		share_prepare((uintptr_t)addr, page_end(addr, length), false, "mmap");
	at = real_mmap(addr, length, prot, flags, fd, offset);
	if (at != MAP_FAILED && !(flags & MAP_FIXED_NOREPLACE))
		share_forget((uintptr_t)addr, page_end(addr, length), NULL);
	regions_unlock(&saved);
	return at;
}

PUBLIC void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
	__attribute__((alias("mmap")));

PUBLIC int munmap(void *addr, size_t length)
{
	uintptr_t last;
	struct state saved;
	int result;

	if (!touches(addr, length))
		return real_munmap(addr, length);
	regions_lock(&saved);
	last = share_prepare((uintptr_t)addr, page_end(addr, length), true, "munmap");
	result = real_munmap(addr, last - (uintptr_t)addr);
	if (!result)
		share_forget((uintptr_t)addr, last, NULL);
	regions_unlock(&saved);
	return result;
}

/* Convert all regions in a range; false: one cannot be. */
static bool convert_all(const void *addr, size_t length, const char *call)
{
	const uintptr_t end = page_end(addr, length);
	bool all = true;

	for (struct region *region = NULL;
	     (region = regions_next((uintptr_t)addr, end, region));)
		if (region->shared && share_convert(region, call))
			all = false;
	return all;
}

/*
 * A program means its own mapping, where the kernel would change the file's
 * page tables for every process: so it gets tables of its own first. True: the
 * call is to be made; false: the answer is *result.
 */
static bool may_protect(void *addr, size_t length, int prot, int *result)
{
	const uintptr_t end = page_end(addr, length);
	const int error = errno;
	struct region *region;
	bool go_on = true;
	struct state saved;

	*result = 0;
	regions_lock(&saved);
	region = regions_next((uintptr_t)addr, end, NULL);
	if (region && region->shared && region->prot == prot &&
	    (uintptr_t)addr >= region->start && end <= region->start + region->length) {
		/* As it is. In a domain of readers the kernel would refuse even that. */
		go_on = (uintptr_t)addr % sysconf(_SC_PAGESIZE);
	} else if (!convert_all(addr, length, "mprotect")) {
		*result = -1;
		go_on = false;
	}
	regions_unlock(&saved);
	errno = *result ? EACCES : error;
	return go_on;
}

PUBLIC int mprotect(void *addr, size_t length, int prot)
{
	int result;

	if (!touches(addr, length) || may_protect(addr, length, prot, &result))
		return real_mprotect(addr, length, prot);
	return result;
}

PUBLIC int pkey_mprotect(void *addr, size_t length, int prot, int pkey)
{
	int result;

	/* With a key it is never as it is. */
	if (!touches(addr, length) ||
	    may_protect(addr, length, pkey == -1 ? prot : -1, &result))
		return real_pkey_mprotect(addr, length, prot, pkey);
	return result;
}

/* mremap() of a whole region, which goes on sharing. */
static void *move_region(struct region *region, size_t new, int flags, void *to)
{
	const size_t whole = round_up(new, granule);
	void *at;

	/* Beyond what the program asked for, there may be something else of its own. */
	if (flags & MREMAP_FIXED && whole != round_up(new, sysconf(_SC_PAGESIZE)))
		return MAP_FAILED;
	at = real_mremap((void *)region->start, region->whole, whole, flags, to);
	if (at == MAP_FAILED)
		return at;
	region->start = (uintptr_t)at;
	region->length = round_up(new, sysconf(_SC_PAGESIZE));
	region->whole = whole;
	regions_moved(region);
	return at;
}

PUBLIC void *mremap(void *addr, size_t old, size_t new, int flags, ...)
{
	const int error = errno;
	struct region *region;
	void *to = NULL, *at;
	struct state saved;
	va_list rest;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(rest, flags);
		to = va_arg(rest, void *);
		va_end(rest);
	}
	if (!touches(addr, old ? old : 1) && !(flags & MREMAP_FIXED && touches(to, new)))
		return real_mremap(addr, old, new, flags, to);

	regions_lock(&saved);
	if (flags & MREMAP_FIXED)
		share_prepare((uintptr_t)to, page_end(to, new), false, "mremap");
	region = regions_next((uintptr_t)addr, page_end(addr, old ? old : 1), NULL);
	at = MAP_FAILED;
	if (region && region->shared && region->start == (uintptr_t)addr && new &&
	    page_end(addr, old) == region->start + region->length &&
	    !(flags & MREMAP_DONTUNMAP) &&
	    !(flags & MREMAP_FIXED && (uintptr_t)to % granule))
		at = move_region(region, new, flags, to);
	if (at == MAP_FAILED) {
		region = NULL;
		errno = error;
		convert_all(addr, old ? old : 1, "mremap");
		at = real_mremap(addr, old, new, flags, to);
	}
	if (at != MAP_FAILED && flags & MREMAP_FIXED)
		share_forget((uintptr_t)to, page_end(to, new), region);
	regions_unlock(&saved);
	return at;
}

/*
 * After a call that the kernel refused since it was not for whole granules:
 * where it was for all that the program knows of a region, its end at the
 * kernel; else 0, and regions are ordinary that were not.
 */
static size_t whole_length(const void *addr, size_t length, const char *call)
{
	const uintptr_t end = page_end(addr, length);
	struct region *region;
	size_t whole = 0;
	struct state saved;

	regions_lock(&saved);
	region = regions_next((uintptr_t)addr, end, NULL);
	if (region && region->shared && !((uintptr_t)addr % granule) &&
	    end == region->start + region->length)
		whole = region->start + region->whole - (uintptr_t)addr;
	else
		convert_all(addr, length, call);
	regions_unlock(&saved);
	return whole;
}

/* Something has been said of a part of the program's memory; the answer to it. */
static int note_advised(const void *addr, size_t length, int result)
{
	const int error = errno;
	struct state saved;

	if (result || !touches(addr, length))
		return result;
	regions_lock(&saved);
	for (struct region *region = NULL;
	     (region = regions_next((uintptr_t)addr, page_end(addr, length), region));)
		region->advised = true;
	regions_unlock(&saved);
	errno = error;
	return 0;
}

PUBLIC int madvise(void *addr, size_t length, int advice)
{
	const int error = errno;
	int result;

	switch (advice) {
	case MADV_NORMAL:
	case MADV_RANDOM:
	case MADV_SEQUENTIAL:
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_DONTDUMP:
	case MADV_DODUMP:
		break;
	default:
		return real_madvise(addr, length, advice);
	}
	/* These are a mapping's, which may have to be split for them. */
	result = real_madvise(addr, length, advice);
	if (result == -1 && errno == EINVAL && touches(addr, length)) {
		const size_t whole = whole_length(addr, length, "madvise");

		errno = error;
		result = real_madvise(addr, whole ? whole : length, advice);
	}
	return note_advised(addr, length, result);
}

/* mlock2() of all that the program knows of a region, and of what is beyond. */
static int lock_whole(const void *addr, size_t length, size_t whole, unsigned int flags)
{
	/* Pages that the program does not know of need not be there. */
	if (real_mlock2(addr, whole, MLOCK_ONFAULT))
		return -1;
	if (!(flags & MLOCK_ONFAULT) && real_madvise((void *)addr, length, MADV_POPULATE_READ)) {
		real_munlock(addr, whole);
		errno = ENOMEM;
		return -1;
	}
	return 0;
}

/* By @flags, and by mlock() itself if there are none: old kernels have only that. */
static int lock(const void *addr, size_t length, unsigned int flags)
{
	const int error = errno;
	int result = flags ? real_mlock2(addr, length, flags) : real_mlock(addr, length);

	if (result == -1 && errno == EINVAL && touches(addr, length)) {
		const size_t whole = whole_length(addr, length, "mlock");

		errno = error;
		if (whole)
			result = lock_whole(addr, length, whole, flags);
		else
			result = flags ? real_mlock2(addr, length, flags) :
					 real_mlock(addr, length);
	}
	return note_advised(addr, length, result);
}

PUBLIC int mlock(const void *addr, size_t length)
{
	return lock(addr, length, 0);
}

PUBLIC int mlock2(const void *addr, size_t length, unsigned int flags)
{
	return lock(addr, length, flags);
}

PUBLIC int munlock(const void *addr, size_t length)
{
	const int error = errno;
	int result = real_munlock(addr, length);

	if (result == -1 && errno == EINVAL && touches(addr, length)) {
		const size_t whole = whole_length(addr, length, "munlock");

		errno = error;
		result = real_munlock(addr, whole ? whole : length);
	}
	return result;
}

/*
 * The plain attachment stays, so that the kernel counts it (shm_nattch); no
 * page of it is touched, so it has no page tables.
 */
PUBLIC void *shmat(int id, const void *addr, int flags)
{
	const int error = errno;
	void *anchor = real_shmat(id, addr, flags);
	struct shmid_ds segment;
	void *at;

	if (anchor == MAP_FAILED || addr || flags & ~SHM_RDONLY)
		return anchor;
	if (shmctl(id, IPC_STAT, &segment) || segment.shm_segsz < option_min_size)
		at = MAP_FAILED;
	else
		at = share_segment((uintptr_t)anchor, segment.shm_segsz,
				   flags & SHM_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE);
	errno = error;
	return at == MAP_FAILED ? anchor : at;
}

PUBLIC int shmdt(const void *addr)
{
	struct region *region;
	struct state saved;
	int result;

	if (!touches(addr, 1))
		return real_shmdt(addr);
	regions_lock(&saved);
	region = regions_next((uintptr_t)addr, (uintptr_t)addr + 1, NULL);
	if (region && region->start == (uintptr_t)addr && region->anchor) {
		result = real_munmap((void *)region->start, region->whole);
		if (!result)
			share_release(region);
	} else {
		result = real_shmdt(addr);
	}
	regions_unlock(&saved);
	return result;
}

/* Processes that end without their exit handlers are told of, too. */
PUBLIC __attribute__((noreturn)) void _exit(int status)
{
	log_end();
	for (;;)
		syscall(SYS_exit_group, status);
}

PUBLIC __attribute__((noreturn)) void _Exit(int status)
{
	_exit(status);
}
