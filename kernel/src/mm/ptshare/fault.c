// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guests of shared page tables: links made by faults, mmap and fork, and dropped
 * by unmapping.
 *
 * Tables of a host are freed only when its domain dies, after the last guest
 * was closed. Whoever holds a lock that keeps a guest VMA alive may therefore
 * walk the host's upper levels without a lock.
 */

#include <linux/memcontrol.h>
#include <linux/pagemap.h>
#include <linux/pgalloc.h>
#include <linux/ptshare.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>

#include <trace/events/ptshare.h>

#include <asm/tlb.h>

#include "../internal.h"
#include "ptshare.h"

/*
 * A host address lies in a VMA of the host: the host's VMAs cover all of
 * [PTSHARE_BASE, PTSHARE_LIMIT) for the domain's whole life, mprotect only
 * splits and merges them.
 */
static struct vm_area_struct *ptshare_host_vma(struct mm_struct *host,
					       unsigned long haddr)
{
	mmap_assert_locked(host);
	return vma_lookup(host, haddr);
}

static bool ptshare_access_ok(vm_flags_t vm_flags, unsigned int fault_flags)
{
	if (fault_flags & FAULT_FLAG_WRITE)
		return vm_flags & VM_WRITE;
	if (fault_flags & FAULT_FLAG_INSTRUCTION)
		return vm_flags & VM_EXEC;
	/* ptshare_gup_check() has seen FOLL_FORCE before. */
	return (vm_flags & VM_ACCESS_FLAGS) || (fault_flags & FAULT_FLAG_FORCE);
}

/*
 * The value of a PUD entry, the host's or a guest's; none where there is no
 * table. Needs no lock but the guest's VMA: see the head of this file.
 */
static pud_t ptshare_pudval(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;

	if (!pgd_present(READ_ONCE(*pgd)))
		return __pud(0);
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(READ_ONCE(*p4d)))
		return __pud(0);
	return READ_ONCE(*pud_offset(p4d, addr));
}

/* The value of the host's PMD entry for @haddr; none where there is no table. */
static pmd_t ptshare_host_pmdval(struct mm_struct *host, unsigned long haddr)
{
	pud_t pud = ptshare_pudval(host, haddr);

	if (!pud_present(pud))
		return __pmd(0);
	return pmdp_get_lockless(pmd_offset(&pud, haddr));
}

/* Does the PTE for @addr in this table, the host's, allow the access? */
static bool ptshare_pmd_permits(pmd_t pmd, unsigned long addr,
				unsigned int fault_flags)
{
	pte_t pte;

	if (!pmd_present(pmd))
		return false;
	pte = ptep_get_lockless(pte_offset_kernel(&pmd, addr));
	if (!pte_access_permitted(pte, fault_flags & FAULT_FLAG_WRITE))
		return false;
	return !(fault_flags & FAULT_FLAG_INSTRUCTION) || pte_exec(pte);
}

/* The same of what stands in the host's tables at this moment. */
bool ptshare_pte_permits(struct mm_struct *host, unsigned long haddr,
			 unsigned int fault_flags)
{
	return ptshare_pmd_permits(ptshare_host_pmdval(host, haddr), haddr,
				   fault_flags);
}

/*
 * A PUD entry inside a guest VMA points either at a PMD table of the process's
 * own, or at one of the host's. The share count tells: it is raised by links
 * alone, before they are made and until after they are gone.
 */
static bool ptshare_pud_is_link(pud_t pud)
{
	return ptdesc_pmd_pts_count(virt_to_ptdesc(pud_pgtable(pud)));
}

/*
 * Does a link stand for @addr? Another thread may drop it at any time; the
 * host's tables behind it stay while the VMA is locked, as does a table of the
 * process's own.
 *
 * @pmdval: the entry that a walk finds; none where there is no table
 */
static bool ptshare_linked(const struct vm_area_struct *vma, unsigned long addr,
			   pmd_t *pmdval)
{
	pud_t pud = ptshare_pudval(vma->vm_mm, addr);

	*pmdval = __pmd(0);
	if (!pud_present(pud))
		return false;
	*pmdval = pmdp_get_lockless(pmd_offset(&pud, addr));
	return pmd_present(*pmdval) || ptshare_pud_is_link(pud);
}

/**
 * ptshare_sharers - vma_table_sharers() for guests
 * @vma: the guest, locked against its close
 * @addr: an address in it
 *
 * Return: the links to the host's table of PTEs, and to the PMD table that
 * holds it. At least 1, since links come and go meanwhile.
 */
unsigned int ptshare_sharers(const struct vm_area_struct *vma,
			     unsigned long addr)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	unsigned long haddr = ptshare_host_addr(vma, addr);
	pud_t pud = ptshare_pudval(host, haddr);
	int sharers = 0;
	pmd_t pmd;

	if (pud_present(pud)) {
		sharers = ptdesc_pmd_pts_count(virt_to_ptdesc(pud_pgtable(pud)));
		pmd = pmdp_get_lockless(pmd_offset(&pud, haddr));
		if (pmd_present(pmd))
			sharers += ptdesc_pmd_pts_count(page_ptdesc(pmd_pgtable(pmd)));
	}
	return max(sharers, 1);
}

/* May the guest link the whole PMD table around @addr, and not table by table? */
static bool ptshare_may_link_pud(const struct vm_area_struct *vma,
				 unsigned long addr, unsigned long haddr)
{
	unsigned long base = addr & PUD_MASK;

	return !((addr ^ haddr) & ~PUD_MASK) && base >= vma->vm_start &&
	       base + PUD_SIZE <= vma->vm_end;
}

/* Where the process counts what it has linked: as RssFile or as RssShmem. */
static atomic_long_t *ptshare_granules(const struct vm_area_struct *vma)
{
	bool shmem = shmem_mapping(vma_ptshare_domain(vma)->mapping);

	return &vma->vm_mm->ptshare_granules[shmem];
}

/*
 * Link the PMD table of the host around @addr, if the guest has no table of
 * its own there.
 */
static void ptshare_link_pud(struct vm_area_struct *vma, unsigned long addr,
			     pud_t *pud, pmd_t *host_table)
{
	struct mm_struct *mm = vma->vm_mm;
	spinlock_t *ptl = pud_lock(mm, pud);

	if (pud_none(*pud)) {
		ptdesc_pmd_pts_inc(virt_to_ptdesc(host_table));
		pud_populate(mm, pud, host_table);
		atomic_long_add(PTRS_PER_PMD, ptshare_granules(vma));
		trace_ptshare_link(vma, addr, PUD_SIZE);
	}
	spin_unlock(ptl);
}

/*
 * Link the table of PTEs around @addr, and those around it that the host has by
 * now: who touches one granule is likely to touch the next, and a link costs a
 * small part of a fault.
 *
 * @pmd: the guest's entry for @addr, in a table of the process's own
 */
static void ptshare_link_pmds(struct vm_area_struct *vma, unsigned long addr,
			      unsigned long haddr, pmd_t *pmd)
{
	unsigned long start = max(round_down(addr, PTSHARE_LINK_AROUND), vma->vm_start);
	unsigned long end = min(round_down(addr, PTSHARE_LINK_AROUND) +
				PTSHARE_LINK_AROUND, vma->vm_end);
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	struct mm_struct *mm = vma->vm_mm;
	unsigned long nr_links = 0;
	spinlock_t *ptl;

	pmd -= (addr - start) >> PMD_SHIFT;
	haddr -= addr - start;
	ptl = pmd_lock(mm, pmd);
	for (; start < end; start += PMD_SIZE, haddr += PMD_SIZE, pmd++) {
		pgtable_t table;
		pmd_t host_pmd;

		if (!pmd_none(*pmd))
			continue;
		host_pmd = ptshare_host_pmdval(host, haddr);
		if (!pmd_present(host_pmd))
			continue;
		table = pmd_pgtable(host_pmd);
		ptdesc_pmd_pts_inc(page_ptdesc(table));
		pmd_populate(mm, pmd, table);
		nr_links++;
		trace_ptshare_link(vma, start, PMD_SIZE);
	}
	atomic_long_add(nr_links, ptshare_granules(vma));
	spin_unlock(ptl);
}

/*
 * Make the guest's entry for @addr point at the host's table, and entries around
 * it where those are for PMD_SIZE. Nothing is done where the host has no table
 * yet.
 *
 * Nothing need be flushed: entries go from none to present only.
 */
static vm_fault_t ptshare_link(struct vm_area_struct *vma, unsigned long addr,
			       unsigned long haddr)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	struct mm_struct *mm = vma->vm_mm;
	pmd_t *host_pmds;
	pud_t *pud, val;
	p4d_t *p4d;

	if (!pmd_present(ptshare_host_pmdval(host, haddr)))
		return 0;
	host_pmds = pud_pgtable(ptshare_pudval(host, haddr));

	p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	if (!p4d)
		return VM_FAULT_OOM;
	pud = pud_alloc(mm, p4d, addr);
	if (!pud)
		return VM_FAULT_OOM;

	if (pud_none(READ_ONCE(*pud)) && ptshare_may_link_pud(vma, addr, haddr))
		ptshare_link_pud(vma, addr, pud, host_pmds);
	if (!pmd_alloc(mm, pud, addr))
		return VM_FAULT_OOM;

	/*
	 * A PUD link can stand here although the VMA is no longer allowed one:
	 * madvise may have split the VMA since. It maps the same, keep it. Or
	 * it was dropped by another thread just now: fault again. A table of
	 * the process's own stays while the VMA is locked.
	 */
	val = READ_ONCE(*pud);
	if (!pud_none(val) && pud_pgtable(val) != host_pmds)
		ptshare_link_pmds(vma, addr, haddr, pmd_offset(&val, addr));
	return 0;
}

/**
 * ptshare_link_warm - link what the host has of whole PUD_SIZEs
 * @vma: a guest; its mm's mmap_lock is held for writing
 * @start: start of a range in it that has no tables yet
 * @end: its end
 *
 * Who maps or inherits what others use takes no fault to link it. Tables of
 * PTEs are left to faults: mmap and fork must not take time for each granule.
 * So is what there is no memory for.
 */
void ptshare_link_warm(struct vm_area_struct *vma, unsigned long start,
		       unsigned long end)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	struct mm_struct *mm = vma->vm_mm;
	unsigned long addr;

	for (addr = round_up(start, PUD_SIZE); addr < end && end - addr >= PUD_SIZE;
	     addr += PUD_SIZE) {
		unsigned long haddr = ptshare_host_addr(vma, addr);
		pud_t host_pud, *pud;
		p4d_t *p4d;

		if (!ptshare_may_link_pud(vma, addr, haddr))
			return;
		host_pud = ptshare_pudval(host, haddr);
		if (!pud_present(host_pud))
			continue;
		p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
		pud = p4d ? pud_alloc(mm, p4d, addr) : NULL;
		if (!pud)
			return;
		ptshare_link_pud(vma, addr, pud, pud_pgtable(host_pud));
		cond_resched();
	}
}

/*
 * Is the address beyond the file's end? The two ->fault()s that go by the size
 * that is known here would say so, too, but only when there are tables for it,
 * which in a host stay as long as there is any guest.
 */
static bool ptshare_beyond_end(struct vm_area_struct *vma, unsigned long haddr)
{
	struct address_space *mapping = vma->vm_file->f_mapping;

	if (vma->vm_ops->fault != filemap_fault && !shmem_mapping(mapping))
		return false;
	return linear_page_index(vma, haddr) >=
	       DIV_ROUND_UP(i_size_read(mapping->host), PAGE_SIZE);
}

/* Why a fault is not even tried: VM_FAULT_SIGSEGV or VM_FAULT_SIGBUS; or 0. */
static vm_fault_t ptshare_refusal(struct vm_area_struct *vma,
				  unsigned long haddr, unsigned int flags)
{
	if (!ptshare_access_ok(vma->vm_flags, flags))
		return VM_FAULT_SIGSEGV;
	return ptshare_beyond_end(vma, haddr) ? VM_FAULT_SIGBUS : 0;
}

/*
 * Run the ordinary fault on the host's VMA, under its VMA lock. VM_FAULT_RETRY
 * if that could not be had or did not do; nothing is locked then either.
 */
static vm_fault_t ptshare_host_fault_vma(struct mm_struct *host,
					 unsigned long haddr,
					 unsigned int flags)
{
	struct vm_area_struct *vma;
	vm_fault_t ret;

	/* NOWAIT has no meaning for a VMA lock, see sanitize_fault_flags(). */
	if (flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;
	vma = lock_vma_under_rcu(host, haddr);
	if (!vma)
		return VM_FAULT_RETRY;
	ret = ptshare_refusal(vma, haddr, flags) ?:
	      __handle_mm_fault(vma, haddr, flags | FAULT_FLAG_VMA_LOCK);
	if (!(ret & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)))
		vma_end_read(vma);
	return ret;
}

/* A writer may hold it, or wait for it, as long as a store waits for a disk. */
static bool ptshare_lock_host(struct mm_struct *host, unsigned int flags)
{
	if (flags & FAULT_FLAG_RETRY_NOWAIT)
		return mmap_read_trylock(host);
	if (flags & FAULT_FLAG_KILLABLE)
		return !mmap_read_lock_killable(host);
	mmap_read_lock(host);
	return true;
}

/*
 * The same under the host's mmap_lock, which the fault may drop. VM_FAULT_RETRY
 * also where the lock could not be had: for who must not wait, or is to die.
 */
static vm_fault_t ptshare_host_fault_mmap(struct mm_struct *host,
					  unsigned long haddr,
					  unsigned int flags)
{
	struct vm_area_struct *vma;
	vm_fault_t ret = VM_FAULT_SIGSEGV;
	bool unlocked = false;

	if (!ptshare_lock_host(host, flags))
		return VM_FAULT_RETRY;
	vma = ptshare_host_vma(host, haddr);
	if (vma)
		ret = ptshare_refusal(vma, haddr, flags);
	if (!ret) {
		ret = __handle_mm_fault(vma, haddr, flags);
		unlocked = (ret & VM_FAULT_COMPLETED) ||
			   ((ret & VM_FAULT_RETRY) &&
			    !(flags & FAULT_FLAG_RETRY_NOWAIT));
	}
	if (!unlocked)
		mmap_read_unlock(host);
	return ret;
}

/*
 * The host's mmap_lock is the last resort, as in the fault of any process: one
 * who waits for it is given it by the writer before, and so keeps the next
 * mprotect waiting until it gets to run.
 */
vm_fault_t ptshare_host_fault(struct mm_struct *host, unsigned long haddr,
			      unsigned int flags)
{
	vm_fault_t ret = ptshare_host_fault_vma(host, haddr, flags);
	vm_fault_t major = ret & VM_FAULT_MAJOR;

	if (!(ret & VM_FAULT_RETRY))
		return ret;
	if (major)
		flags |= FAULT_FLAG_TRIED;
	return ptshare_host_fault_mmap(host, haddr, flags) | major;
}

/**
 * ptshare_fault - handle a fault in a guest
 * @vma: the guest; its mm's mmap_lock or its VMA lock is held
 * @addr: the address
 * @flags: FAULT_FLAG_*
 *
 * Access is checked against the host, never against the guest's own flags:
 * the protection is the domain's.
 *
 * Return: as handle_mm_fault(), and with the same effect on the lock held.
 */
vm_fault_t ptshare_fault(struct vm_area_struct *vma, unsigned long addr,
			 unsigned int flags)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	unsigned long haddr = ptshare_host_addr(vma, addr);
	vm_fault_t ret;
	bool linked;
	pmd_t pmd;

	/* Another guest may have brought in meanwhile what is asked for. */
	linked = ptshare_linked(vma, addr, &pmd);
	if (!linked)
		pmd = ptshare_host_pmdval(host, haddr);
	if (ptshare_pmd_permits(pmd, addr, flags))
		return linked ? 0 : ptshare_link(vma, addr, haddr);

	if (vma->vm_flags & VM_RAND_READ)
		flags |= FAULT_FLAG_RAND_READ;
	if (vma->vm_flags & VM_SEQ_READ)
		flags |= FAULT_FLAG_SEQ_READ;
	/* An mmap_lock, here the host's, is never taken under a VMA lock. */
	if (flags & FAULT_FLAG_VMA_LOCK)
		ret = ptshare_host_fault_vma(host, haddr, flags);
	else
		ret = ptshare_host_fault(host, haddr, flags);

	/* The host belongs to no cgroup, it was counted for none. */
	if (ret & VM_FAULT_MAJOR)
		count_memcg_event_mm(vma->vm_mm, PGMAJFAULT);

	if (ret & VM_FAULT_RETRY) {
		/* What was dropped is the host's lock, the caller's must be too. */
		if (flags & FAULT_FLAG_VMA_LOCK)
			vma_end_read(vma);
		else if (!(flags & FAULT_FLAG_RETRY_NOWAIT))
			mmap_read_unlock(vma->vm_mm);
		return ret;
	}
	/* The fault is done and dropped the host's lock, the caller's is held. */
	ret &= ~VM_FAULT_COMPLETED;
	if (linked || (ret & VM_FAULT_ERROR))
		return ret;
	return ret | ptshare_link(vma, addr, haddr);
}

/* The guest's flags with the rights of the host's VMA, and how far they reach. */
static vm_flags_t ptshare_segment_locked(struct vm_area_struct *vma,
					 unsigned long addr,
					 unsigned long *start,
					 unsigned long *end)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	unsigned long haddr = ptshare_host_addr(vma, addr);
	vm_flags_t flags = vma->vm_flags & ~VM_ACCESS_FLAGS;
	struct vm_area_struct *host_vma = ptshare_host_vma(host, haddr);

	if (WARN_ON_ONCE(!host_vma))
		return flags;
	if (haddr - host_vma->vm_start < addr - *start)
		*start = addr - (haddr - host_vma->vm_start);
	if (host_vma->vm_end - haddr < *end - addr)
		*end = addr + (host_vma->vm_end - haddr);
	return flags | (host_vma->vm_flags & VM_ACCESS_FLAGS);
}

/**
 * ptshare_segment - the protection in force around an address of a guest
 * @vma: the guest; its mm's mmap_lock is held
 * @addr: an address in it
 * @start: the guest's start, raised to where this protection begins
 * @end: the guest's end, lowered to where it ends
 *
 * Return: the guest's flags, with the rights of the host's VMA.
 */
vm_flags_t ptshare_segment(struct vm_area_struct *vma, unsigned long addr,
			   unsigned long *start, unsigned long *end)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	vm_flags_t flags;

	mmap_read_lock(host);
	flags = ptshare_segment_locked(vma, addr, start, end);
	mmap_read_unlock(host);
	return flags;
}

/**
 * ptshare_gup_check - may get_user_pages() follow or fault this address?
 * @vma: the guest; its mm's mmap_lock is held
 * @addr: an address in it
 * @gup_flags: FOLL_*
 * @checked: raised to the address up to which the answer holds
 *
 * check_vma_flags() for the protection in force.
 *
 * Return: 0; -EFAULT if it may not; -EINTR if the task was killed while it
 * waited; -EBUSY if it would have to wait, and FOLL_NOWAIT forbids it.
 */
int ptshare_gup_check(struct vm_area_struct *vma, unsigned long addr,
		      unsigned int gup_flags, unsigned long *checked)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	unsigned long start = vma->vm_start, end = vma->vm_end;
	vm_flags_t flags;

	/* A writer may have it as long as a store waits for a disk. */
	if (gup_flags & FOLL_NOWAIT) {
		if (!mmap_read_trylock(host))
			return -EBUSY;
	} else if (mmap_read_lock_killable(host)) {
		return -EINTR;
	}
	flags = ptshare_segment_locked(vma, addr, &start, &end);
	mmap_read_unlock(host);

	*checked = end;
	/* FOLL_FORCE never wrote to a shared mapping. */
	if (gup_flags & FOLL_WRITE)
		return flags & VM_WRITE ? 0 : -EFAULT;
	/* populate_vma_page_range() forces nothing where all is refused. */
	if ((gup_flags & FOLL_FORCE) && !(gup_flags & (FOLL_GET | FOLL_PIN)))
		return flags & VM_ACCESS_FLAGS ? 0 : -EFAULT;
	return (flags & VM_READ) || (gup_flags & FOLL_FORCE) ? 0 : -EFAULT;
}

/*
 * The table that an entry of a guest linked to. The entry is cleared by the
 * caller; the gather flushes before the guest can be closed, also what CPUs
 * cached of the entry itself. The table stays, it is the host's.
 */
static void ptshare_drop_link(struct mmu_gather *tlb,
			      struct vm_area_struct *vma, struct ptdesc *table,
			      unsigned long addr, unsigned long size)
{
	ptdesc_pmd_pts_dec(table);
	atomic_long_sub(size >> PMD_SHIFT, ptshare_granules(vma));
	trace_ptshare_unlink(vma, addr, size);
	/* PTEs under the link may be cached one by one. */
	tlb_flush_pte_range(tlb, addr, size);
	tlb->freed_tables = 1;
}

static void ptshare_unlink_pmds(struct mmu_gather *tlb,
				struct vm_area_struct *vma, pud_t *pud,
				unsigned long addr, unsigned long end)
{
	pmd_t *pmd = pmd_offset(pud, addr);
	spinlock_t *ptl = pmd_lock(tlb->mm, pmd);

	for (; addr < end; pmd++, addr += PMD_SIZE) {
		struct ptdesc *table;

		if (pmd_none(*pmd))
			continue;
		table = page_ptdesc(pmd_pgtable(*pmd));
		pmd_clear(pmd);
		ptshare_drop_link(tlb, vma, table, addr, PMD_SIZE);
	}
	spin_unlock(ptl);
}

/* [@addr, @end) lies under one PUD entry. */
static void ptshare_unlink_pud(struct mmu_gather *tlb,
			       struct vm_area_struct *vma, unsigned long addr,
			       unsigned long end)
{
	struct mm_struct *mm = tlb->mm;
	pgd_t *pgd = pgd_offset(mm, addr);
	spinlock_t *ptl;
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(READ_ONCE(*pgd)))
		return;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(READ_ONCE(*p4d)))
		return;
	pud = pud_offset(p4d, addr);

	ptl = pud_lock(mm, pud);
	if (pud_none(*pud)) {
		spin_unlock(ptl);
		return;
	}
	if (ptshare_pud_is_link(*pud)) {
		/* The rest of the PUD_SIZE links again when it is touched. */
		struct ptdesc *table = virt_to_ptdesc(pud_pgtable(*pud));

		pud_clear(pud);
		ptshare_drop_link(tlb, vma, table, addr & PUD_MASK, PUD_SIZE);
		spin_unlock(ptl);
		return;
	}
	spin_unlock(ptl);

	/* A table of the process's own, it stays while the VMA does. */
	ptshare_unlink_pmds(tlb, vma, pud, addr, end);
}

/**
 * ptshare_unlink_range - drop a guest's links
 * @tlb: the gather that will flush; links must be flushed before the guest is
 *       closed, since its close may free the tables
 * @vma: the guest; locked as for unmap_page_range()
 * @start: start of the range
 * @end: its end
 *
 * Only whole granules are dropped. Other guests notice nothing.
 */
void ptshare_unlink_range(struct mmu_gather *tlb, struct vm_area_struct *vma,
			  unsigned long start, unsigned long end)
{
	unsigned long addr, next;

	end = round_down(end, PMD_SIZE);
	for (addr = round_up(start, PMD_SIZE); addr < end; addr = next) {
		next = pud_addr_end(addr, end);
		ptshare_unlink_pud(tlb, vma, addr, next);
		cond_resched();
	}
}
