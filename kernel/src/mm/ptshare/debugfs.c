// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/ptshare/tables: which tables there are, and who links to
 * them, read from the page tables themselves. For debugging, no ABI;
 * Documentation/mm/ptshare.rst has the format.
 *
 * A line is a record. Between two calls of read() the reader holds nothing but
 * the mm_struct of the guest where it stopped, not what is mapped there, so
 * that nothing waits for a reader that sleeps. Domains are found again by their
 * number, guests by their mm and address. What is not there any more is passed
 * over, so the file is no snapshot.
 */

#include <linux/debugfs.h>
#include <linux/mm.h>
#include <linux/oom.h>
#include <linux/ptshare.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "ptshare.h"

/* Tables, by what their entries point to; the last level first. */
enum ptshare_level {
	PTSHARE_PTES,
	PTSHARE_PMDS,
	PTSHARE_PUDS,
	PTSHARE_P4DS,
};

static const char * const ptshare_level_names[] = { "pte", "pmd", "pud", "p4d" };

enum ptshare_record {
	PTSHARE_DOMAIN,
	PTSHARE_TABLE,		/* of the host */
	PTSHARE_GUEST,
	PTSHARE_ENTRY,		/* of the guest's mm */
};

/**
 * struct ptshare_cursor - the record at which a reader is
 * @record: what it is
 * @id: the domain
 * @last_id: the newest domain when the reader began
 * @mm: the guest's mm, pinned by mmgrab()
 * @start: the guest's window, as its record said
 * @end: its end
 * @pgoff: its place in the file
 * @addr: an address under the table, in the host or in @mm
 * @level: of the table
 * @pfn: the table's
 * @domain: from start() to stop(): the domain, with a reference
 * @locked: from start() to stop(): mmap_lock of @mm is held, and mm_users
 * @vma: while @locked: the guest
 */
struct ptshare_cursor {
	enum ptshare_record record;
	u64 id;
	u64 last_id;
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
	unsigned long pgoff;
	unsigned long addr;
	enum ptshare_level level;
	unsigned long pfn;

	struct ptshare_domain *domain;
	bool locked;
	struct vm_area_struct *vma;
};

static enum ptshare_level ptshare_top(struct mm_struct *mm)
{
	return mm_p4d_folded(mm) ? PTSHARE_PUDS : PTSHARE_P4DS;
}

/* What one table of a level maps. */
static unsigned long ptshare_span(enum ptshare_level level)
{
	switch (level) {
	case PTSHARE_PTES:
		return PMD_SIZE;
	case PTSHARE_PMDS:
		return PUD_SIZE;
	case PTSHARE_PUDS:
		return P4D_SIZE;
	default:
		return PGDIR_SIZE;
	}
}

/*
 * The page frame of the table of a level around an address; 0 if there is none.
 * No table that is looked at here goes away: those of a host live as long as
 * the domain, and those of a guest's mm that lie above a guest stay while the
 * mmap_lock is held. Links may go, so entries are read once.
 */
static unsigned long ptshare_table_pfn(struct mm_struct *mm, unsigned long addr,
				       enum ptshare_level level)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud, pudval;
	pmd_t pmdval;

	if (!pgd_present(READ_ONCE(*pgd)))
		return 0;
	p4d = p4d_offset(pgd, addr);
	if (level == PTSHARE_P4DS)
		return PHYS_PFN(__pa(p4d));
	if (!p4d_present(READ_ONCE(*p4d)))
		return 0;
	pud = pud_offset(p4d, addr);
	if (level == PTSHARE_PUDS)
		return PHYS_PFN(__pa(pud));
	pudval = READ_ONCE(*pud);
	if (!pud_present(pudval))
		return 0;
	if (level == PTSHARE_PMDS)
		return PHYS_PFN(__pa(pud_pgtable(pudval)));
	pmdval = pmdp_get_lockless(pmd_offset(&pudval, addr));
	return pmd_present(pmdval) ? page_to_pfn(pmd_page(pmdval)) : 0;
}

/* Is what a guest has at @addr the very table that the host has there? */
static bool ptshare_is_host_table(struct vm_area_struct *guest,
				  unsigned long addr, enum ptshare_level level,
				  unsigned long pfn)
{
	struct mm_struct *host = vma_ptshare_domain(guest)->host;

	return pfn == ptshare_table_pfn(host, ptshare_host_addr(guest, addr),
					level);
}

static void ptshare_skip_table(struct ptshare_cursor *c, struct mm_struct *mm)
{
	unsigned long span = ptshare_span(c->level);

	c->addr = round_down(c->addr, span) + span;
	/* Tables come before those that lie below them. */
	c->level = ptshare_top(mm);
	while (c->level > PTSHARE_PTES &&
	       !IS_ALIGNED(c->addr, ptshare_span(c->level)))
		c->level--;
}

/*
 * The first table at the cursor or after it. @guest is NULL for a host. What
 * lies below a link is the host's and not looked at.
 */
static bool ptshare_find_table(struct ptshare_cursor *c, struct mm_struct *mm,
			       struct vm_area_struct *guest, unsigned long end)
{
	while (c->addr < end) {
		/* A link may have come while nothing was held. */
		if (guest && c->level == PTSHARE_PTES) {
			c->pfn = ptshare_table_pfn(mm, c->addr, PTSHARE_PMDS);
			if (ptshare_is_host_table(guest, c->addr, PTSHARE_PMDS,
						  c->pfn))
				c->level = PTSHARE_PMDS;
		}
		c->pfn = ptshare_table_pfn(mm, c->addr, c->level);
		if (c->pfn)
			return true;
		ptshare_skip_table(c, mm);
	}
	return false;
}

static void ptshare_next_table(struct ptshare_cursor *c, struct mm_struct *mm,
			       struct vm_area_struct *guest)
{
	if (c->level == PTSHARE_PTES ||
	    (guest && ptshare_is_host_table(guest, c->addr, c->level, c->pfn)))
		ptshare_skip_table(c, mm);
	else
		c->level--;
}

static void ptshare_unlock_mm(struct ptshare_cursor *c)
{
	c->vma = NULL;
	if (!c->locked)
		return;
	c->locked = false;
	mmap_read_unlock(c->mm);
	/* May be the last one, and close the guests. No lock is held here. */
	mmput(c->mm);
}

static void ptshare_drop_mm(struct ptshare_cursor *c)
{
	ptshare_unlock_mm(c);
	if (c->mm)
		mmdrop(c->mm);
	c->mm = NULL;
}

/* 0; -ESRCH if there is nothing to be seen; -EINTR. */
static int ptshare_lock_mm(struct ptshare_cursor *c)
{
	if (!mmget_not_zero(c->mm))
		return -ESRCH;
	if (mmap_read_lock_killable(c->mm)) {
		mmput(c->mm);
		return -EINTR;
	}
	c->locked = true;
	/* A fork that failed half-way has left others' VMAs in the tree. */
	return check_stable_address_space(c->mm) ? -ESRCH : 0;
}

/* The guests' mms come in the order of their addresses. */
static bool ptshare_next_mm(struct ptshare_cursor *c)
{
	struct mm_struct *found = NULL, *mm;
	struct vm_area_struct *guest;

	spin_lock(&c->domain->lock);
	list_for_each_entry(guest, &c->domain->guests, ptshare_node) {
		mm = guest->vm_mm;
		if (mm > c->mm && (!found || mm < found))
			found = mm;
	}
	/* A guest leaves the list before its mm is freed. */
	if (found)
		mmgrab(found);
	spin_unlock(&c->domain->lock);

	ptshare_drop_mm(c);
	c->mm = found;
	c->record = PTSHARE_GUEST;
	c->addr = 0;
	return found;
}

static void ptshare_leave_domain(struct ptshare_cursor *c)
{
	ptshare_drop_mm(c);
	ptshare_put_domain(c->domain);
	c->domain = NULL;
	c->record = PTSHARE_DOMAIN;
	c->id++;
}

static bool ptshare_enter_domain(struct ptshare_cursor *c)
{
	c->domain = ptshare_get_domain_from(c->id);
	if (!c->domain)
		return false;
	if (c->domain->id != c->id) {
		ptshare_drop_mm(c);
		c->record = PTSHARE_DOMAIN;
		c->id = c->domain->id;
	}
	/* Domains may be made as fast as they are listed. */
	return c->id <= c->last_id;
}

static struct vm_area_struct *ptshare_first_guest(struct ptshare_cursor *c)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, c->mm, c->addr);

	for_each_vma(vmi, vma) {
		if (vma_ptshare_domain(vma) == c->domain)
			return vma;
		cond_resched();
	}
	return NULL;
}

/* The first record of the mm at the cursor or after it. */
static bool ptshare_find_in_mm(struct ptshare_cursor *c)
{
	for (;;) {
		struct vm_area_struct *vma = c->vma;

		if (!vma) {
			vma = ptshare_first_guest(c);
			if (!vma)
				return false;
			c->vma = vma;
			/* It is not what it was when its record was shown. */
			if (c->start != vma->vm_start || c->end != vma->vm_end ||
			    c->pgoff != vma->vm_pgoff || c->addr < vma->vm_start)
				c->record = PTSHARE_GUEST;
		}
		if (c->record == PTSHARE_GUEST) {
			c->start = vma->vm_start;
			c->end = vma->vm_end;
			c->pgoff = vma->vm_pgoff;
			c->addr = max(c->addr, vma->vm_start);
			c->level = ptshare_top(c->mm);
			return true;
		}
		if (ptshare_find_table(c, c->mm, vma, vma->vm_end))
			return true;
		c->addr = vma->vm_end;
		c->vma = NULL;
		c->record = PTSHARE_GUEST;
	}
}

/* The first record at the cursor or after it; NULL at the end, or an error. */
static void *ptshare_find_record(struct ptshare_cursor *c)
{
	int error;

	for (;;) {
		cond_resched();
		if (!c->domain && !ptshare_enter_domain(c))
			return NULL;
		if (c->record == PTSHARE_DOMAIN)
			return c;
		if (c->record == PTSHARE_TABLE) {
			if (ptshare_find_table(c, c->domain->host, NULL,
					       PTSHARE_LIMIT))
				return c;
		} else {
			error = c->locked ? 0 : ptshare_lock_mm(c);
			if (error == -EINTR)
				return ERR_PTR(error);
			if (!error && ptshare_find_in_mm(c))
				return c;
		}
		if (!ptshare_next_mm(c))
			ptshare_leave_domain(c);
	}
}

static void *ptshare_tables_start(struct seq_file *m, loff_t *pos)
{
	struct ptshare_cursor *c = m->private;

	if (!*pos) {
		ptshare_drop_mm(c);
		c->record = PTSHARE_DOMAIN;
		c->id = 0;
		c->last_id = ptshare_last_id();
	}
	return ptshare_find_record(c);
}

static void *ptshare_tables_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct ptshare_cursor *c = m->private;

	++*pos;
	switch (c->record) {
	case PTSHARE_DOMAIN:
		c->record = PTSHARE_TABLE;
		c->addr = PTSHARE_BASE;
		c->level = ptshare_top(c->domain->host);
		break;
	case PTSHARE_TABLE:
		ptshare_next_table(c, c->domain->host, NULL);
		break;
	case PTSHARE_GUEST:
		c->record = PTSHARE_ENTRY;
		break;
	case PTSHARE_ENTRY:
		ptshare_next_table(c, c->mm, c->vma);
		break;
	}
	return ptshare_find_record(c);
}

static void ptshare_tables_stop(struct seq_file *m, void *v)
{
	struct ptshare_cursor *c = m->private;

	ptshare_unlock_mm(c);
	if (c->domain)
		ptshare_put_domain(c->domain);
	c->domain = NULL;
}

/* A process that runs in the mm, as the reader sees it; 0 if there is none. */
static pid_t ptshare_pid(struct mm_struct *mm)
{
	struct task_struct *p;
	pid_t pid = 0;

	rcu_read_lock();
	for_each_process(p) {
		if (!(p->flags & PF_KTHREAD) && process_shares_mm(p, mm)) {
			pid = task_tgid_vnr(p);
			break;
		}
	}
	rcu_read_unlock();
	return pid;
}

static unsigned long ptshare_pgd_pfn(struct mm_struct *mm)
{
	return PHYS_PFN(__pa(mm->pgd));
}

static void ptshare_show_domain(struct seq_file *m, struct ptshare_domain *domain)
{
	struct inode *inode = domain->mapping->host;
	dev_t dev = inode->i_sb->s_dev;
	vm_flags_t class = domain->class;

	seq_printf(m, "domain id=%llu dev=%02x:%02x inode=%lu asked=%c%c%c may=%c%c%c mdwe=%d pgd=0x%lx\n",
		   domain->id, MAJOR(dev), MINOR(dev), inode->i_ino,
		   class & VM_READ ? 'r' : '-', class & VM_WRITE ? 'w' : '-',
		   class & VM_EXEC ? 'x' : '-', class & VM_MAYREAD ? 'r' : '-',
		   class & VM_MAYWRITE ? 'w' : '-',
		   class & VM_MAYEXEC ? 'x' : '-', domain->mdwe,
		   ptshare_pgd_pfn(domain->host));
}

static void ptshare_show_table(struct seq_file *m, const struct ptshare_cursor *c)
{
	unsigned long start = round_down(c->addr, ptshare_span(c->level));
	int links = 0;

	/* Higher ones cannot be linked to. */
	if (c->level <= PTSHARE_PMDS)
		links = ptdesc_pmd_pts_count(page_ptdesc(pfn_to_page(c->pfn)));
	seq_printf(m, " table level=%s offset=0x%lx pfn=0x%lx links=%d\n",
		   ptshare_level_names[c->level], start - PTSHARE_BASE, c->pfn,
		   links);
}

static int ptshare_tables_show(struct seq_file *m, void *v)
{
	const struct ptshare_cursor *c = v;

	switch (c->record) {
	case PTSHARE_DOMAIN:
		ptshare_show_domain(m, c->domain);
		break;
	case PTSHARE_TABLE:
		ptshare_show_table(m, c);
		break;
	case PTSHARE_GUEST:
		seq_printf(m, " guest pid=%d start=0x%lx end=0x%lx offset=0x%lx pgd=0x%lx\n",
			   ptshare_pid(c->mm), c->start, c->end,
			   c->pgoff << PAGE_SHIFT, ptshare_pgd_pfn(c->mm));
		break;
	case PTSHARE_ENTRY:
		seq_printf(m, "  %s level=%s start=0x%lx pfn=0x%lx\n",
			   ptshare_is_host_table(c->vma, c->addr, c->level,
						 c->pfn) ? "link" : "own",
			   ptshare_level_names[c->level],
			   round_down(c->addr, ptshare_span(c->level)), c->pfn);
		break;
	}
	return 0;
}

static const struct seq_operations ptshare_tables_ops = {
	.start	= ptshare_tables_start,
	.next	= ptshare_tables_next,
	.stop	= ptshare_tables_stop,
	.show	= ptshare_tables_show,
};

static int ptshare_tables_open(struct inode *inode, struct file *file)
{
	return seq_open_private(file, &ptshare_tables_ops,
				sizeof(struct ptshare_cursor));
}

static int ptshare_tables_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	ptshare_drop_mm(m->private);
	return seq_release_private(inode, file);
}

/* Nothing but read(): with the mode, what a locked-down kernel admits. */
static const struct file_operations ptshare_tables_fops = {
	.owner		= THIS_MODULE,
	.open		= ptshare_tables_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= ptshare_tables_release,
};

static int __init ptshare_debugfs_init(void)
{
	debugfs_create_file("tables", 0400, debugfs_create_dir("ptshare", NULL),
			    NULL, &ptshare_tables_fops);
	return 0;
}
late_initcall(ptshare_debugfs_init);
