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

/* What a fault links around itself where granules are linked one by one. */
#define PTSHARE_LINK_AROUND	(16 * PMD_SIZE)

#define PTSHARE_MAY	(VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC)

/* What makes an access class: the rights at mmap time, and those within reach. */
#define PTSHARE_CLASS	(VM_ACCESS_FLAGS | PTSHARE_MAY)

/**
 * struct ptshare_domain - the page tables that one access class of a file shares
 * @node: in ptshare_domains, under ptshare_lock
 * @id: never another one's; domains are numbered as they come
 * @mapping: the file; the host's VMAs pin it
 * @class: PTSHARE_CLASS bits of the guests
 * @mdwe: the guests have denied themselves memory that is writable and
 *        executable (PR_SET_MDWE)
 * @vm_ops: what the file's mappings have
 * @host: the mm that owns the tables
 * @flush_mn: flushes the guests' TLBs when the host's are flushed
 * @range_mn: tells the guests' own mmu notifiers what the host's are told
 * @refs: the guests together, and the two notifiers; the last one frees the
 *        domain
 * @guests_ref: one for each guest VMA, and for who reads the file in debugfs;
 *              falls to zero only under ptshare_lock
 * @lock: protects the lists, and @file together with the host's mmap_lock
 * @guests: the guest VMAs, through vm_area_struct.ptshare_node
 * @file: what the host's VMAs have open, always borrowed from a live guest
 * @windows: held for writing to change @watched, the windows of guests in it,
 *           and VM_LOCKED of guests; not by MREMAP_DONTUNMAP, whose new guest
 *           has the old one's window locked
 * @watched: guests that are VM_LOCKED or whose mm has mmu notifiers, through
 *           vm_area_struct.ptshare_watched; changes under @windows and @lock
 * @dying: the last guest is gone; set under @windows
 * @all_locks: mm_take_all_locks() holds @windows
 */
struct ptshare_domain {
	struct hlist_node node;
	u64 id;
	struct address_space *mapping;
	vm_flags_t class;
	bool mdwe;
	const struct vm_operations_struct *vm_ops;
	struct mm_struct *host;
	struct mmu_notifier flush_mn;
	struct mmu_notifier range_mn;
	refcount_t refs;
	refcount_t guests_ref;

	spinlock_t lock;
	struct list_head guests;
	struct file *file;

	struct rw_semaphore windows;
	struct list_head watched;
	bool dying;
	bool all_locks;
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
u64 ptshare_last_id(void);
struct ptshare_domain *ptshare_get_domain_from(u64 id);
void ptshare_put_domain(struct ptshare_domain *domain);

/* windows.c */
extern const struct mmu_notifier_ops ptshare_flush_ops;
extern const struct mmu_notifier_ops ptshare_range_ops;
void ptshare_put_domain_ref(struct ptshare_domain *domain);
void ptshare_watch(struct vm_area_struct *guest, bool wanted);
int ptshare_lock_pages(struct vm_area_struct *guest);
void ptshare_unlock_pages(struct ptshare_domain *domain, unsigned long haddr,
			  unsigned long hend);

/* fault.c */
bool ptshare_pte_permits(struct mm_struct *host, unsigned long haddr,
			 unsigned int fault_flags);
vm_fault_t ptshare_host_fault(struct mm_struct *host, unsigned long haddr,
			      unsigned int flags);

#endif /* _MM_PTSHARE_PTSHARE_H */
