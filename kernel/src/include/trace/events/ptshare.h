/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ptshare

#if !defined(_TRACE_PTSHARE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PTSHARE_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/tracepoint.h>

#include <trace/events/mmflags.h>

/* One set of shared tables: the file, and what its mappings are allowed. */
DECLARE_EVENT_CLASS(ptshare_domain,
	TP_PROTO(struct mm_struct *host, struct address_space *mapping,
		 vm_flags_t class),
	TP_ARGS(host, mapping, class),
	TP_STRUCT__entry(
		__field(void *, host)
		__field(dev_t, dev)
		__field(unsigned long, ino)
		__field(vm_flags_t, class)
	),
	TP_fast_assign(
		__entry->host = host;
		__entry->dev = mapping->host->i_sb->s_dev;
		__entry->ino = mapping->host->i_ino;
		__entry->class = class;
	),
	TP_printk("host=%p dev=%u:%u ino=%lu class=%s", __entry->host,
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->ino,
		  show_vma_flags(__entry->class))
);

DEFINE_EVENT(ptshare_domain, ptshare_create,
	TP_PROTO(struct mm_struct *host, struct address_space *mapping,
		 vm_flags_t class),
	TP_ARGS(host, mapping, class)
);

DEFINE_EVENT(ptshare_domain, ptshare_free,
	TP_PROTO(struct mm_struct *host, struct address_space *mapping,
		 vm_flags_t class),
	TP_ARGS(host, mapping, class)
);

DECLARE_EVENT_CLASS(ptshare_guest,
	TP_PROTO(struct vm_area_struct *guest, struct mm_struct *host),
	TP_ARGS(guest, host),
	TP_STRUCT__entry(
		__field(void *, host)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned long, pgoff)
	),
	TP_fast_assign(
		__entry->host = host;
		__entry->start = guest->vm_start;
		__entry->end = guest->vm_end;
		__entry->pgoff = guest->vm_pgoff;
	),
	TP_printk("host=%p start=0x%lx end=0x%lx pgoff=0x%lx", __entry->host,
		  __entry->start, __entry->end, __entry->pgoff)
);

DEFINE_EVENT(ptshare_guest, ptshare_attach,
	TP_PROTO(struct vm_area_struct *guest, struct mm_struct *host),
	TP_ARGS(guest, host)
);

DEFINE_EVENT(ptshare_guest, ptshare_detach,
	TP_PROTO(struct vm_area_struct *guest, struct mm_struct *host),
	TP_ARGS(guest, host)
);

/* Entries of a guest's own tables: size is PMD_SIZE or PUD_SIZE. */
DECLARE_EVENT_CLASS(ptshare_link,
	TP_PROTO(struct vm_area_struct *guest, unsigned long addr,
		 unsigned long size),
	TP_ARGS(guest, addr, size),
	TP_STRUCT__entry(
		__field(unsigned long, addr)
		__field(unsigned long, size)
	),
	TP_fast_assign(
		__entry->addr = addr & ~(size - 1);
		__entry->size = size;
	),
	TP_printk("addr=0x%lx size=0x%lx", __entry->addr, __entry->size)
);

DEFINE_EVENT(ptshare_link, ptshare_link,
	TP_PROTO(struct vm_area_struct *guest, unsigned long addr,
		 unsigned long size),
	TP_ARGS(guest, addr, size)
);

DEFINE_EVENT(ptshare_link, ptshare_unlink,
	TP_PROTO(struct vm_area_struct *guest, unsigned long addr,
		 unsigned long size),
	TP_ARGS(guest, addr, size)
);

TRACE_EVENT(ptshare_mprotect,
	TP_PROTO(struct vm_area_struct *guest, unsigned long start,
		 unsigned long end, vm_flags_t flags),
	TP_ARGS(guest, start, end, flags),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(vm_flags_t, flags)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->flags = flags;
	),
	TP_printk("start=0x%lx end=0x%lx flags=%s", __entry->start,
		  __entry->end, show_vma_flags(__entry->flags))
);

#endif /* _TRACE_PTSHARE_H */

#include <trace/define_trace.h>
