/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Opened files, named by the file the kernel opened, and failed attempts, named by the caller.
 * The filter comes first: unless every open is wanted, one of the path's components must be on the
 * sensitive list, or on the guarded one if the file is open for writing or created; or, where writes are
 * wanted, the file must be open for writing or be created. What that test lets through too much, the
 * agent sorts out. */
BPF_RINGBUF_OUTPUT(OPEN_EVENTS, OPEN_EVENTS_PAGES);
BPF_RINGBUF_OUTPUT(OPEN_MINOR, OPEN_MINOR_PAGES); /* attempts that failed */
#define OPEN_BYTE_NS BYTE_NS(OPEN_EVENTS_BYTES / 2)

#define OPEN_MASK 0x1fff
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_PATH 010000000
#define EPERM 1
#define EACCES 13
struct open_scratch { volatile u32 crowded; struct path_buffer path; u8 bytes[0x3000]; };
BPF_PERCPU_ARRAY(OPEN_SCRATCH, struct open_scratch, 1);

struct open_key { u64 process; u64 file; u64 mode; };
BPF_F_TABLE("lru_hash", struct open_key, u64, OPEN_REPEATS, 8192, 0);

/* How many components are tested, leaf first: the file and its folder. Each is read of every open, which
 * takes 32 ns where the kernel has no cast (common.h); a folder on the list therefore covers the files in
 * it, not those further down. */
#define SENSITIVE_DEPTH 2

static __always_inline bool is_candidate(struct control *ctl, u64 *names, u64 dentry) {
  for (int i = 0; i < SENSITIVE_DEPTH; i++) {
    struct dentry_part part = {};
    READ(part, dentry + OFF_dentry_d_parent);
    if (is_listed_in(ctl, names, part.hash_and_len >> 32, part.first[0]))
      return true;
    if (!part.parent || part.parent == dentry)
      return false;
    dentry = part.parent;
  }
  return false;
}

/* True when this process opened this very file in this mode a moment ago; running another program
 * since makes it another process here, for that one may not be trusted. */
static __always_inline bool is_repeat(struct control *ctl, void *task, u64 process, u64 file,
                                      u64 mode) {
  if (!ctl->suppress_ns)
    return false;
  u64 now = bpf_ktime_get_boot_ns(), *last;
  u64 program = LOAD32(task, OFF_task_struct_self_exec_id);
  struct open_key key = {.process = process, .file = file, .mode = mode ^ program << 48};
  last = OPEN_REPEATS.lookup(&key);
  if (last && now - *last < ctl->suppress_ns)
    return true;
  OPEN_REPEATS.update(&key, &now);
  return false;
}

/* Where every open is wanted, so are the many that fail. */
static __always_inline struct caller open_caller(struct control *ctl, void *task, int error) {
  u64 byte_ns = !error ? OPEN_BYTE_NS : ctl->opens == OPENS_ALL ? MINOR_BYTE_NS / 16 : MINOR_BYTE_NS;
  struct caller caller = caller_is(LOAD64(task, OFF_task_struct_group_leader), PROBE_OPEN, byte_ns);
  caller.minor = caller.failed = error != 0;
  return caller;
}

static __always_inline bool is_open_throttled(struct control *ctl, struct counters *cnt, void *task,
                                              struct open_scratch *scratch, int error) {
  scratch->crowded = error || IS_CROWDED(OPEN_EVENTS);
  if (!scratch->crowded)
    return false;
  struct caller caller = open_caller(ctl, task, error);
  return is_throttled(&caller, cnt);
}

static __always_inline int submit_open(struct control *ctl, struct counters *cnt, void *task,
                                       struct open_scratch *scratch, int error) {
  struct path_buffer *buf = &scratch->path;
  struct open_record *record = (struct open_record *)buf->bytes;
  if (buf->cut)
    record->marks |= MARK_CUT;
  u32 bytes = ((buf->at + HEADER_BYTES + OPEN_SLOT_BYTES - 1) & ~(OPEN_SLOT_BYTES - 1)) - HEADER_BYTES;
  bytes &= OPEN_MASK;
  u64 wake = wake_up(cnt, record->marks & MARK_CANDIDATE);
  long full;
  if (error)
    full = OPEN_MINOR.ringbuf_output(record, bytes, wake);
  else
    full = OPEN_EVENTS.ringbuf_output(record, bytes, wake);
  if (!full)
    COUNT(cnt->delivered);
  if (full || scratch->crowded) {
    struct caller caller = open_caller(ctl, task, error);
    settle(&caller, cnt, bytes, full);
  }
  return 0;
}

static __always_inline void begin_open(struct open_record *record, u32 tgid, u64 start_ns, u32 flags,
                                       int error) {
  record->time_ns = bpf_ktime_get_boot_ns();
  record->start_ns = start_ns;
  record->pid = tgid;
  record->uid = bpf_get_current_uid_gid();
  record->flags = flags;
  record->error = error;
  record->marks = 0;
  record->origin_bytes = 0;
  bpf_get_current_comm(record->comm, sizeof(record->comm));
}

/* One program for every call that opens: the loader attaches it to each of their exits. The
 * arguments, which the caller's registers still hold, are fetched only for what is delivered. */
#define NR_OPEN 2
#define NR_CREAT 85
#define NR_OPENAT2 437

struct open_call {
  u64 text;
  u32 flags;
};

static __always_inline struct open_call arguments_of(void *task, int number) {
  void *regs = (void *)bpf_task_pt_regs((struct task_struct *)task);
  u64 di = LOAD64(regs, OFF_pt_regs_di), si = LOAD64(regs, OFF_pt_regs_si);
  u64 flags = LOAD64(regs, OFF_pt_regs_dx), text = si;
  if (number == NR_OPENAT2) { /* a pointer to struct open_how, flags first */
    bpf_probe_read_user(&flags, sizeof(flags), (void *)flags);
  } else if (number == NR_OPEN) {
    text = di;
    flags = si;
  } else if (number == NR_CREAT) {
    text = di;
    flags = O_WRONLY_CREAT_TRUNC;
  }
  struct open_call call = {text, flags};
  return call;
}

static __always_inline bool is_to_write(u32 flags) {
  return !(flags & O_PATH) && flags & (O_ACCMODE | O_CREAT);
}

/* Of failed opens only the refused ones are of interest, and where writes are wanted those to write: a
 * search path fails by the thousand. */
static __always_inline int failed_open(struct control *ctl, struct counters *cnt, u32 tgid, void *task,
                                       int number, int error) {
  u32 zero = 0;
  struct open_scratch *scratch = OPEN_SCRATCH.lookup(&zero);
  if (!scratch)
    return 0;
  u32 opens = ctl->opens;
  if (error && error != EACCES && error != EPERM && opens != OPENS_ALL &&
      !(opens == OPENS_WRITTEN && is_to_write(arguments_of(task, number).flags))) {
    COUNT(cnt->filtered);
    return 0;
  }
  if (is_open_throttled(ctl, cnt, task, scratch, error))
    return 0;
  struct path_buffer *buf = &scratch->path;
  struct open_record *record = (struct open_record *)buf->bytes;
  u8 *path = buf->bytes + sizeof(*record);
  buf->cut = 0;
  struct open_call call = arguments_of(task, number);
  u32 n = bpf_probe_read_user_str(path, PATH_MAX_BYTES, (void *)call.text);
  if (n > PATH_MAX_BYTES)
    n = 0;
  u32 end = n > 8 ? n - 9 : 0;
  BOUND(end, PATH_MAX_BYTES - 1);
  u64 start_ns = start_of_current(task);
  u64 *tail = (u64 *)(path + end); /* the end of a text tells most texts apart */
  if (is_repeat(ctl, task, start_ns << 22 | tgid, *tail, (u64)n << 32 | error)) {
    COUNT(cnt->suppressed);
    return 0;
  }
  begin_open(record, tgid, start_ns, call.flags, error);
  record->path_bytes = n;
  buf->at = sizeof(*record) + n;
  return submit_open(ctl, cnt, task, scratch, error);
}

/* How a file is open is the file's to say: openat2's caller may have rewritten its wish since. */
static __always_inline u32 flags_of(void *task, u64 file, int number) {
  u32 flags = arguments_of(task, number).flags, mode = 0;
  READ(mode, file + OFF_file_f_flags);
  return (flags & ~(O_ACCMODE | O_PATH)) | (mode & (O_ACCMODE | O_PATH));
}

static __always_inline int report_open(struct control *ctl, struct counters *cnt, u32 tgid, void *task,
                                       u64 file, int number) {
  struct place at = {};
  READ(at, file + OFF_file_f_path);
  u32 opens = ctl->opens;
  bool candidate = is_candidate(ctl, ctl->names, at.dentry);
  if (opens == OPENS_SENSITIVE && !candidate) {
    COUNT(cnt->filtered);
    return 0;
  }
  u32 flags = flags_of(task, file, number);
  bool written = is_to_write(flags);
  if (candidate && !written) /* of guarded files the reads are not wanted */
    candidate = is_candidate(ctl, ctl->read_names, at.dentry);
  if (!candidate && opens != OPENS_ALL && !(written && opens == OPENS_WRITTEN)) {
    COUNT(cnt->filtered);
    return 0;
  }
  u32 zero = 0;
  struct open_scratch *scratch = OPEN_SCRATCH.lookup(&zero);
  if (!scratch || is_open_throttled(ctl, cnt, task, scratch, 0))
    return 0;
  u64 start_ns = start_of_current(task);
  if (is_repeat(ctl, task, start_ns << 22 | tgid, at.dentry, flags & (O_ACCMODE | O_PATH))) {
    COUNT(cnt->suppressed);
    return 0;
  }
  struct path_buffer *buf = &scratch->path;
  struct open_record *record = (struct open_record *)buf->bytes;
  begin_open(record, tgid, start_ns, flags, 0);
  buf->at = sizeof(*record);
  buf->cut = 0;
  buf->listed = candidate;
  buf->bound = 0;
  record->path_bytes = write_path(ctl, buf, at, top_of(task), OPEN_MASK);
  if (buf->bound && record->path_bytes <= PATH_MAX_BYTES / 2) {
    record->origin_bytes = write_origin(ctl, buf, at.dentry, OPEN_MASK);
    buf->at += OPEN_SLOT_BYTES; /* never one slot: the decoder's fast path knows no origins */
  } else if (buf->bound) { /* no room for both: the one that cannot be chosen freely */
    buf->at = sizeof(*record);
    record->path_bytes = write_origin(ctl, buf, at.dentry, OPEN_MASK);
  }
  record->marks = MARK_RESOLVED | (buf->listed ? MARK_CANDIDATE : 0);
  return submit_open(ctl, cnt, task, scratch, 0);
}

static __always_inline int on_open(long ret, int number) {
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_OPEN);
  if (!ctl || !cnt)
    return 0;
  COUNT(cnt->seen);
  void *task = (void *)bpf_get_current_task_btf();
  u32 tgid = LOAD32(task, OFF_task_struct_tgid); /* the helper takes 25 ns more */
  u64 files = LOAD64(task, OFF_task_struct_files);
  if (is_agent(ctl, tgid, task) || !files || is_ignored(ctl, tgid, task)) {
    COUNT(cnt->filtered);
    return 0;
  }
  if (ret < 0)
    return failed_open(ctl, cnt, tgid, task, number, -ret);
  u64 file = file_at(files, ret);
  if (file)
    return report_open(ctl, cnt, tgid, task, file, number);
  /* Closed by another thread before we came: only the caller's text is left. */
  return failed_open(ctl, cnt, tgid, task, number, 0);
}

TRACEPOINT_PROBE(syscalls, sys_exit_openat) {
  return on_open(args->ret, args->__syscall_nr);
}
