/* SPDX-License-Identifier: MIT */
/* The table of regions, and its lock. */
#include "share.h"

#include <pthread.h>
#include <stdatomic.h>

/* More than any program known has large shared mappings; further ones stay ordinary. */
#define MAX_REGIONS 512

static struct region regions[MAX_REGIONS];

/*
 * Where they are, to be read without the lock, as many as ever were. Whoever
 * calls for a region knows its address from the call that made it, so what is
 * read was written before.
 */
static struct {
	atomic_uintptr_t start, end;
} spans[MAX_REGIONS];
static atomic_size_t used;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Of the thread that forks. */
static struct state saved_by_fork;

bool regions_touch(uintptr_t start, uintptr_t end)
{
	const size_t count = atomic_load_explicit(&used, memory_order_acquire);

	for (size_t number = 0; number < count; number++)
		if (start < atomic_load_explicit(&spans[number].end, memory_order_relaxed) &&
		    end > atomic_load_explicit(&spans[number].start, memory_order_relaxed))
			return true;
	return false;
}

/*
 * Neither a handler nor a cancelled thread leaves with the lock: calls on
 * memory are no cancellation points, those that are made for them may be.
 */
void regions_lock(struct state *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &saved->cancel);
	pthread_sigmask(SIG_BLOCK, &all, &saved->signals);
	pthread_mutex_lock(&lock);
}

static void restore(const struct state *saved)
{
	pthread_sigmask(SIG_SETMASK, &saved->signals, NULL);
	pthread_setcancelstate(saved->cancel, NULL);
}

void regions_unlock(const struct state *saved)
{
	pthread_mutex_unlock(&lock);
	restore(saved);
}

/* A child has the regions of its parent, and no other thread. */
static void before_fork(void)
{
	struct state saved;

	regions_lock(&saved);
	saved_by_fork = saved;
}

static void after_fork(void)
{
	const struct state saved = saved_by_fork;

	regions_unlock(&saved);
}

static void after_fork_in_child(void)
{
	const struct state saved = saved_by_fork;

	share_after_fork();
	pthread_mutex_init(&lock, NULL);
	restore(&saved);
	log_start();
}

__attribute__((constructor)) static void regions_start(void)
{
	pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

struct region *regions_next(uintptr_t start, uintptr_t end, struct region *last)
{
	for (struct region *region = last ? last + 1 : regions;
	     region < regions + MAX_REGIONS; region++)
		if (region->start && region->start < end &&
		    region->start + region->whole > start)
			return region;
	return NULL;
}

void regions_moved(const struct region *region)
{
	const size_t number = region - regions;

	atomic_store_explicit(&spans[number].start, region->start, memory_order_relaxed);
	atomic_store_explicit(&spans[number].end, region->start + region->whole,
			      memory_order_relaxed);
	if (number >= used)
		atomic_store_explicit(&used, number + 1, memory_order_release);
}

struct region *regions_add(uintptr_t start, size_t whole)
{
	for (struct region *region = regions; region < regions + MAX_REGIONS; region++) {
		if (region->start)
			continue;
		*region = (struct region){ .start = start, .whole = whole,
					   .shared = true, .fd = -1 };
		regions_moved(region);
		return region;
	}
	return NULL;
}

bool regions_full(void)
{
	for (struct region *region = regions; region < regions + MAX_REGIONS; region++)
		if (!region->start)
			return false;
	return true;
}

void regions_drop(struct region *region)
{
	region->start = region->whole = 0;
	regions_moved(region);
}
