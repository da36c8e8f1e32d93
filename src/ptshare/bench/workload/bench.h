/* SPDX-License-Identifier: MIT */
/* What the workloads share: the region that is mapped, processes that start together, and what is printed. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE 4096UL
#define GRANULE (2UL << 20)
#define GIB (1UL << 30)
#define MOST_PROCESSES 4096

/* How the region is mapped. */
enum method { ORDINARY, HUGE, HUGETLB, SHARED_2M, SHARED_1G, THREADS };

/* The arguments, NAME=VALUE each. */
struct options {
	const char *question;
	enum method method;
	size_t size;	/* of the region, bytes */
	size_t touched;	/* of it, from its start; 0: all */
	size_t stride;	/* a page is touched every so many bytes */
	int processes;
	int cpus;	/* on which they run, one after the other */
	int rounds;
	const char *dir; /* of the file that is mapped; NULL: in memory, with no name */
	const char *how; /* where a question has several ways */
};

extern struct options options;

/* region.c */
int region_open(void);
void *region_map(int fd);
unsigned long read_pages(const void *at, size_t size);
void write_pages(void *at, size_t size);
unsigned long region_read(const void *at);
void region_write(void *at);

/* crew.c: memory that all processes see, and who waits for whom */
struct result {
	uint64_t map, touch, again, end;
	long faults, tables;
};

struct board {
	uint32_t ready, go, done, leave;
	uint64_t start, end, stamp;
	struct result results[MOST_PROCESSES];
};

extern struct board *board;

void board_new(void);
void wait_for(uint32_t *word, uint32_t value);
void add_one(uint32_t *word);
void set_all(uint32_t *word, uint32_t value);
pid_t begin(void (*work)(int number, int fd), int number, int fd);
void hold_region(int number, int fd);
void crew_begin(void (*work)(int number, int fd), int from, int count, int fd);
void together(void (*work)(int number, int fd), int fd);
void crew_end(void);
void pin(int number);

/* measure.c */
uint64_t now(void);
long faults(void);
long own_tables(void);
long all_tables(void);
uint64_t median(uint64_t *values, int count);
void print(const char *name, double value);
void die(const char *what) __attribute__((noreturn));
void settle(void);
void rehearse(void);

/* a question each */
void calls(void);
void warm(void);
void leave(void);
void tables(void);
void protect(void);
void do_fork(void);
void reclaim(void);
void storm(void);
void cold(void);

#endif
