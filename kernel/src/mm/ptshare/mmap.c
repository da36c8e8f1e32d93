// SPDX-License-Identifier: GPL-2.0-only
/*
 * System calls on guests of shared page tables: what mmap, mremap and mprotect
 * allow, where mappings go, and what they take over.
 */

#include <linux/dcache.h>
#include <linux/hugetlb.h>
#include <linux/mman.h>
#include <linux/pagewalk.h>
#include <linux/ptshare.h>
#include <linux/sched/signal.h>
#include <linux/security.h>

#include <trace/events/ptshare.h>

#include <asm/tlb.h>

#include "../internal.h"
#include "../vma.h"
#include "ptshare.h"

/* Guests that stand go on when this is cleared, new ones are refused. */
bool ptshare_enabled __read_mostly = true;

/* Does this window of a file fit into a host mm? */
static bool ptshare_in_host(unsigned long pgoff, unsigned long len)
{
	const unsigned long limit = (PTSHARE_LIMIT - PTSHARE_BASE) >> PAGE_SHIFT;

	return pgoff <= limit && (len >> PAGE_SHIFT) <= limit - pgoff;
}

/* Overlay files map what lies below them. */
static struct address_space *ptshare_real_mapping(struct file *file)
{
	return d_real_inode(file_dentry(file))->i_mapping;
}

/*
 * Refuse what MAP_SHARED_PT cannot do: -EINVAL if a private mapping is asked
 * for or if address, length or offset are no multiples of the granule;
 * -EOVERFLOW if the offset is too large; -EOPNOTSUPP if the feature is switched
 * off or does not support it.
 */
static int ptshare_mmap_check(struct file *file, unsigned long addr,
			      unsigned long len, unsigned long pgoff,
			      unsigned long flags)
{
	unsigned long type = flags & MAP_TYPE;

	if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE)
		return -EINVAL;
	if (!READ_ONCE(ptshare_enabled))
		return -EOPNOTSUPP;
	if (flags & MAP_HUGETLB)
		return -EOPNOTSUPP;
	if (!IS_ALIGNED(len, PMD_SIZE))
		return -EINVAL;
	if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) &&
	    !IS_ALIGNED(addr, PMD_SIZE))
		return -EINVAL;
	if (!file)
		return ptshare_in_host(0, len) ? 0 : -EOVERFLOW;

	if (!IS_ALIGNED(pgoff, PTRS_PER_PTE))
		return -EINVAL;
	if (!ptshare_mapping_ok(ptshare_real_mapping(file)))
		return -EOPNOTSUPP;
	return ptshare_in_host(pgoff, len) ? 0 : -EOVERFLOW;
}

/**
 * ptshare_may_mremap - may a guest be moved or resized like this?
 * @vma: the guest
 * @addr: where the range to remap begins
 * @old_len: its length
 * @new_len: the new length
 * @new_addr: the new address with MREMAP_FIXED, else 0
 *
 * Return: true for whole granules that the host can map.
 */
bool ptshare_may_mremap(struct vm_area_struct *vma, unsigned long addr,
			unsigned long old_len, unsigned long new_len,
			unsigned long new_addr)
{
	return IS_ALIGNED(addr | old_len | new_len | new_addr, PMD_SIZE) &&
	       ptshare_in_host(vma_pgoff_offset(vma, addr), new_len);
}

/**
 * ptshare_get_unmapped_area - find an address that can be linked
 * @file: not used
 * @addr: a hint, or 0
 * @len: length, a multiple of PMD_SIZE
 * @pgoff: offset in pages, a multiple of PTRS_PER_PTE
 * @flags: MAP_*
 *
 * Return: an address congruent to the offset modulo PMD_SIZE, and modulo
 * PUD_SIZE if @len is at least that and such an address is free; or an error.
 */
unsigned long ptshare_get_unmapped_area(struct file *file, unsigned long addr,
					unsigned long len, unsigned long pgoff,
					unsigned long flags)
{
	unsigned long align = len >= PUD_SIZE ? PUD_SIZE : PMD_SIZE;
	unsigned long offset = pgoff << PAGE_SHIFT;
	unsigned long ret;

	if (flags & MAP_FIXED)
		return IS_ALIGNED(addr, PMD_SIZE) ? addr : -EINVAL;

	if (addr && IS_ALIGNED(addr - offset, align)) {
		ret = mm_get_unmapped_area(current->mm, NULL, addr, len, 0,
					   flags);
		if (ret == addr)
			return addr;
	}
again:
	if (len + align < len)
		return -ENOMEM;
	ret = mm_get_unmapped_area(current->mm, NULL, 0, len + align, 0, flags);
	if (!IS_ERR_VALUE(ret))
		return ret + ((offset - ret) & (align - 1));
	if (align == PUD_SIZE) {
		align = PMD_SIZE;
		goto again;
	}
	return ret;
}

/* No more than this much of a mapping is looked at: it takes 1/32768 of it. */
#define PTSHARE_CARRY_LIMIT	SZ_1T

/*
 * Pages that an ordinary mapping had present, to be mapped in the host when a
 * guest has taken its place.
 */
struct ptshare_carry {
	unsigned long start;
	unsigned long nr_pages;
	unsigned long present[];
};

static int ptshare_carry_pmd(pmd_t *pmd, unsigned long addr, unsigned long end,
			     struct mm_walk *walk)
{
	struct ptshare_carry *carry = walk->private;
	unsigned long nr = (addr - carry->start) >> PAGE_SHIFT;
	pte_t *start_pte, *pte;
	spinlock_t *ptl;

	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (ptl) {
		if (pmd_present(*pmd))
			bitmap_set(carry->present, nr, (end - addr) >> PAGE_SHIFT);
		spin_unlock(ptl);
		return 0;
	}
	start_pte = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
	if (!start_pte)
		return 0;
	for (pte = start_pte; addr < end; pte++, nr++, addr += PAGE_SIZE) {
		if (pte_present(ptep_get(pte)))
			__set_bit(nr, carry->present);
	}
	pte_unmap_unlock(start_pte, ptl);
	return 0;
}

static const struct mm_walk_ops ptshare_carry_ops = {
	.pmd_entry = ptshare_carry_pmd,
	.walk_lock = PGWALK_WRLOCK,
};

/* Does @vma map at @addr what is to be mapped there from @pgoff on? */
static bool ptshare_carries(struct vm_area_struct *vma, unsigned long addr,
			    struct address_space *mapping, unsigned long pgoff)
{
	return !vma_is_ptshare_guest(vma) && !is_vm_hugetlb_page(vma) &&
	       (vma->vm_flags & VM_MAYSHARE) && vma->vm_file &&
	       vma->vm_file->f_mapping == mapping &&
	       vma_pgoff_offset(vma, addr) == pgoff;
}

/*
 * Note what a mapping about to be replaced has present. Only ordinary shared
 * mappings of the same range of the same file count.
 *
 * NULL if there is nothing, or no memory to note it in: then these pages fault
 * one by one, as do those behind PTSHARE_CARRY_LIMIT.
 */
static struct ptshare_carry *ptshare_carry_begin(struct file *file,
						 unsigned long addr,
						 unsigned long len,
						 unsigned long pgoff)
{
	unsigned long first = ULONG_MAX, last = 0, start, nr_pages;
	struct address_space *mapping;
	struct ptshare_carry *carry;
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, current->mm, addr);

	mapping = ptshare_real_mapping(file);
	for_each_vma_range(vmi, vma, addr + len) {
		start = max(vma->vm_start, addr);
		if (!ptshare_carries(vma, start, mapping,
				     pgoff + ((start - addr) >> PAGE_SHIFT)))
			continue;
		first = min(first, start);
		last = min(vma->vm_end, addr + len);
	}
	if (!last)
		return NULL;

	last = min(last, first + PTSHARE_CARRY_LIMIT);
	nr_pages = (last - first) >> PAGE_SHIFT;
	carry = kvzalloc(struct_size(carry, present, BITS_TO_LONGS(nr_pages)),
			 GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!carry)
		return NULL;
	carry->start = first;
	carry->nr_pages = nr_pages;

	vma_iter_set(&vmi, addr);
	for_each_vma_range(vmi, vma, last) {
		start = max(vma->vm_start, addr);
		if (ptshare_carries(vma, start, mapping,
				    pgoff + ((start - addr) >> PAGE_SHIFT)))
			walk_page_range(current->mm, start,
					min(vma->vm_end, last),
					&ptshare_carry_ops, carry);
	}
	return carry;
}

/* Pages that went away meanwhile are left to ordinary faults. */
static void ptshare_carry_pages(const struct ptshare_carry *carry,
				struct vm_area_struct *vma)
{
	struct mm_struct *host = vma_ptshare_domain(vma)->host;
	unsigned long nr;

	for_each_set_bit(nr, carry->present, carry->nr_pages) {
		unsigned long haddr = ptshare_host_addr(vma, carry->start) +
				      (nr << PAGE_SHIFT);

		cond_resched();
		if (fatal_signal_pending(current))
			break;
		if (ptshare_pte_permits(host, haddr, 0))
			continue;
		/* Without FAULT_FLAG_ALLOW_RETRY no lock is dropped. */
		if (ptshare_host_fault(host, haddr, 0) & VM_FAULT_ERROR)
			break;
	}
}

/**
 * ptshare_do_mmap - do_mmap() for a guest
 * @file: the file, NULL for anonymous memory
 * @addr: address as the caller of mmap() gave it
 * @len: length as the caller gave it
 * @prot: PROT_*
 * @flags: MAP_*, with MAP_SHARED_PT
 * @pgoff: offset in pages
 * @populate: set to how many bytes are to be populated
 * @uf: what userfaultfd is to be told
 *
 * The new guest is filled with what is there already: pages that an ordinary
 * mapping in its place had present, and what the host has by whole PUD_SIZEs.
 *
 * Return: as do_mmap(); or what ptshare_mmap_check() says.
 */
unsigned long ptshare_do_mmap(struct file *file, unsigned long addr,
			      unsigned long len, unsigned long prot,
			      unsigned long flags, unsigned long pgoff,
			      unsigned long *populate, struct list_head *uf)
{
	struct ptshare_carry *carry = NULL;
	struct vm_area_struct *vma;
	int error;

	*populate = 0;
	error = ptshare_mmap_check(file, addr, len, pgoff, flags);
	if (error)
		return error;

	if (file && (flags & MAP_FIXED))
		carry = ptshare_carry_begin(file, addr, len, pgoff);
	addr = do_mmap(file, addr, len, prot, flags, VM_SHARED_PT, pgoff,
		       populate, uf);
	if (!IS_ERR_VALUE(addr)) {
		vma = vma_lookup(current->mm, addr);
		if (carry)
			ptshare_carry_pages(carry, vma);
		ptshare_link_warm(vma, addr, addr + len);
	}
	kvfree(carry);
	return addr;
}

/*
 * The limit of VMAs that split_vma() has for others. For a host it is here,
 * since to lock and unlock what the guests' own VMAs say must not fail.
 */
static bool ptshare_may_split_host(struct mm_struct *host, unsigned long haddr,
				   unsigned long hend)
{
	int splits = (vma_lookup(host, haddr)->vm_start < haddr) +
		     (vma_lookup(host, hend - 1)->vm_end > hend);

	return !splits || host->map_count + splits <= sysctl_max_map_count;
}

/*
 * map_deny_write_exec() for the whole domain: also if the caller is a child that
 * has not inherited what its parent has denied itself.
 */
static bool ptshare_deny_write_exec(const struct ptshare_domain *domain,
				    vm_flags_t old, vm_flags_t new)
{
	if (domain->mdwe && (new & VM_EXEC) &&
	    ((new & VM_WRITE) || !(old & VM_EXEC)))
		return true;
	return map_deny_write_exec(old, new);
}

/* What do_mprotect_pkey() asks of any VMA, and what holds for guests alone. */
static int ptshare_may_mprotect(struct vm_area_struct *vma, unsigned long prot,
				bool rier, int pkey, vm_flags_t *newflags)
{
	const vm_flags_t may = (vma->vm_flags & PTSHARE_MAY) >> 4;
	const unsigned long reqprot = prot;
	int error;

	if (pkey > 0)
		return -EINVAL;
	if (rier && (vma->vm_flags & VM_MAYEXEC))
		prot |= PROT_EXEC;
	*newflags = calc_vm_prot_bits(prot, 0) & VM_ACCESS_FLAGS;
	if (*newflags & ~may)
		return -EACCES;
	error = security_file_mprotect(vma, reqprot, prot);
	if (error)
		return error;
	if (!can_modify_vma(vma))
		return -EPERM;
	/*
	 * A reader could otherwise take a public file away from all others who
	 * read it.
	 */
	return vma->vm_flags & VM_MAYWRITE ? 0 : -EACCES;
}

/**
 * ptshare_mprotect - change the protection of a range for the whole domain
 * @vma: the guest; its mm's mmap_lock is held for writing
 * @start: start of the range, inside @vma
 * @end: its end
 * @prot: the new PROT_READ, PROT_WRITE, PROT_EXEC, as the caller gave them
 * @rier: to read is to execute, where that is within reach
 * @pkey: protection key, -1 for none
 *
 * When this returns, no CPU uses a right that was taken away: the flush of the
 * host's tables at tlb_finish_mmu() reaches all.
 *
 * Return: 0; -EINVAL for a protection key, which are per process, as shared
 * tables are not; -EACCES, -EPERM for a sealed VMA, -ENOMEM, or -EINTR; or what
 * a security module says.
 */
int ptshare_mprotect(struct vm_area_struct *vma, unsigned long start,
		     unsigned long end, unsigned long prot, bool rier, int pkey)
{
	struct ptshare_domain *domain = vma_ptshare_domain(vma);
	unsigned long haddr = ptshare_host_addr(vma, start);
	unsigned long hend = haddr + (end - start);
	struct vm_area_struct *host_vma, *prev;
	struct mm_struct *host = domain->host;
	struct vma_iterator vmi;
	struct mmu_gather tlb;
	vm_flags_t newflags;
	int error;

	error = ptshare_may_mprotect(vma, prot, rier, pkey, &newflags);
	if (error)
		return error;

	trace_ptshare_mprotect(vma, start, end, newflags);
	if (mmap_write_lock_killable(host))
		return -EINTR;

	vma_iter_init(&vmi, host, haddr);
	for_each_vma_range(vmi, host_vma, hend) {
		if (ptshare_deny_write_exec(domain, host_vma->vm_flags,
					    newflags)) {
			error = -EACCES;
			goto unlock;
		}
	}

	if (!ptshare_may_split_host(host, haddr, hend)) {
		error = -ENOMEM;
		goto unlock;
	}

	vma_iter_init(&vmi, host, haddr);
	host_vma = vma_find(&vmi, hend);
	prev = vma_prev(&vmi);
	if (haddr > host_vma->vm_start)
		prev = host_vma;

	tlb_gather_mmu(&tlb, host);
	for_each_vma_range(vmi, host_vma, hend) {
		error = mprotect_fixup(&vmi, &tlb, host_vma, &prev, haddr,
				       min(host_vma->vm_end, hend),
				       (host_vma->vm_flags & ~VM_ACCESS_FLAGS) |
				       newflags);
		if (error)
			break;
		haddr = vma_iter_end(&vmi);
	}
	tlb_finish_mmu(&tlb);
unlock:
	mmap_write_unlock(host);
	return error;
}
