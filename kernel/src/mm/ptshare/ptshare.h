/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of mm/ptshare/ share among themselves.
 */
#ifndef _MM_PTSHARE_PTSHARE_H
#define _MM_PTSHARE_PTSHARE_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/ptshare.h>

/*
 * Where file offset 0 stands in a host mm. Aligned to each level, so that a
 * host address is congruent to its file offset; not 0, so that no host address
 * looks like a null pointer.
 */
#define PTSHARE_BASE	PGDIR_SIZE
#define PTSHARE_LIMIT	(TASK_SIZE_MAX & PUD_MASK)

#define PTSHARE_MAY	(VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC)

/* What makes an access class: the rights at mmap time, and those within reach. */
#define PTSHARE_CLASS	(VM_ACCESS_FLAGS | PTSHARE_MAY)

/**
 * struct ptshare_domain - the page tables that one access class of a file shares
 * @node: in ptshare_domains, under ptshare_lock
 * @mapping: the file; the host's VMAs pin it
 * @class: PTSHARE_CLASS bits of the guests
 * @host: the mm that owns the tables
 * @mn: flushes the guests' TLBs when the host's are flushed; its release frees
 *      the domain
 * @guests_ref: one for each guest VMA; falls to zero only under ptshare_lock
 * @lock: protects @guests, and @file together with the host's mmap_lock
 * @guests: the guest VMAs, through vm_area_struct.ptshare_node
 * @file: what the host's VMAs have open, always borrowed from a live guest
 */
struct ptshare_domain {
	struct hlist_node node;
	struct address_space *mapping;
	vm_flags_t class;
	struct mm_struct *host;
	struct mmu_notifier mn;
	refcount_t guests_ref;

	spinlock_t lock;
	struct list_head guests;
	struct file *file;
};

struct ptshare_counts {
	unsigned long domains;
	unsigned long guests;	/* VMAs */
	unsigned long tables;	/* page-table pages */
};

extern bool ptshare_enabled;

static inline unsigned long ptshare_host_addr(const struct vm_area_struct *guest,
					      unsigned long addr)
{
	return PTSHARE_BASE + (guest->vm_pgoff << PAGE_SHIFT) +
	       (addr - guest->vm_start);
}

/* domain.c */
bool ptshare_mapping_ok(struct address_space *mapping);
void ptshare_count(struct ptshare_counts *counts);

/* fault.c */
bool ptshare_pte_permits(struct mm_struct *host, unsigned long haddr,
			 unsigned int fault_flags);
vm_fault_t ptshare_host_fault(struct mm_struct *host, unsigned long haddr,
			      unsigned int flags);

#endif /* _MM_PTSHARE_PTSHARE_H */
