/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * What all probes share: loads from the kernel's memory, counters, the filters, the process identity.
 *
 * LOADn reads a field through a BTF-typed kernel pointer, in one machine instruction, and the verifier
 * checks offset and type against the running kernel. READ reads 2, 4 or a multiple of 8 bytes at any
 * address; where nothing is, zeros. */
#define LOAD64(base, off) ({ u64 _v; \
  asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(_v) : "r"(base), "i"(off)); _v; })
#define LOAD32(base, off) ({ u64 _v; \
  asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(_v) : "r"(base), "i"(off)); (u32)_v; })
#define LOAD16(base, off) ({ u64 _v; \
  asm volatile("%0 = *(u16 *)(%1 + %2)" : "=r"(_v) : "r"(base), "i"(off)); (u16)_v; })
#ifdef CAST_TYPE
/* The address, of which the kernel believes that a struct of two plain numbers is there: so READ is a
 * load for every 8 bytes, about 1 ns, and not a call of 25 to 35. bpf/programs.py makes of this call,
 * which no compiler of ours knows how to write, one of the kernel's function bpf_rdonly_cast. */
static u64 (*cast)(u64 address, u32 type) = (void *)CAST_CALL;

static __always_inline void read_kernel(void *to, u32 bytes, u64 from) {
  if (bytes == 2)
    *(u16 *)to = LOAD16(cast(from, CAST_TYPE), 0);
  else if (bytes == 4)
    *(u32 *)to = LOAD32(cast(from, CAST_TYPE), 0);
#pragma unroll
  for (u32 at = 0; at + 8 <= bytes; at += 8)
    *(u64 *)(to + at) = LOAD64(cast(from + at, CAST_TYPE), 0);
}
#define READ(dst, src) read_kernel(&(dst), sizeof(dst), (u64)(src))
#else
#define READ(dst, src) bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)(src))
#endif

/* A mask the compiler may not optimise away: the verifier does not know what the compiler knows. */
#define BOUND(value, mask) ({ asm volatile("" : "+r"(value)); (value) &= (mask); })

/* Which opens are delivered (bpf/control.py has the twin). Candidates always are. */
#define OPENS_SENSITIVE 0
#define OPENS_ALL 1
#define OPENS_WRITTEN 2 /* and whatever is opened to be written or created */

/* Shared with the agent, which maps both arrays: policy in, counters out, no system call. */
struct control {
  u32 agent_tgid;
  u32 opens;                    /* which opens are delivered: OPENS_ and so on */
  u64 suppress_ns;              /* repeats of one open by one process within this are suppressed */
  u64 name_lengths;             /* bit n: a listed component has n bytes (63: 63 or more) */
  u64 names[NAME_WORDS];        /* Bloom filter over component names of sensitive and guarded files */
  u64 agent_start;              /* when the agent started, in ticks: its pid may outlive it */
  u64 waiting;                  /* executions and connections must wake the agent */
  u64 ignored[IGNORED_SLOTS];   /* programs in processes whose opens and connects nobody wants, by pid */
  u64 read_names[NAME_WORDS];   /* those of sensitive files: of guarded ones only writes are wanted */
};
BPF_F_TABLE("array", u32, struct control, CONTROL, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct counters, COUNTERS, CPU_COUNT * PROBE_COUNT, BPF_F_MMAPABLE);

static __always_inline struct control *control(void) {
  u32 zero = 0;
  return CONTROL.lookup(&zero);
}

static __always_inline struct counters *counters(u32 probe) {
  u32 index = bpf_get_smp_processor_id() * PROBE_COUNT + probe;
  return COUNTERS.lookup(&index);
}

#define COUNT(field) __sync_fetch_and_add(&(field), 1)

/* How to submit: quietly, a timer collects it, unless it must be acted on at once or so many quiet
 * records have come that the ring might fill before the timer. A wake-up costs the process that we
 * watch 14 us in a virtual machine: an interrupt to itself, and one to the agent's processor. So
 * executions and connections call only while the agent waits for them, and not while it is awake or
 * takes the pause after which it will look anyway. */
#define QUIET_RECORDS 1024
static __always_inline u64 wake_up(struct counters *cnt, bool urgent) {
  if (urgent || (cnt->delivered & (QUIET_RECORDS - 1)) == QUIET_RECORDS - 1)
    return BPF_RB_FORCE_WAKEUP;
  return BPF_RB_NO_WAKEUP;
}

static __always_inline u64 whole_ticks(u64 ns) { return ns / TICK_NS * TICK_NS; }

/* Fields every record begins with, for the current process. */
static __always_inline u64 start_of_current(void *task) {
  u64 leader = LOAD64(task, OFF_task_struct_group_leader);
  return leader ? whole_ticks(LOAD64(leader, OFF_task_struct_start_boottime)) : 0;
}

/* While no agent runs, the probes go on, and somebody else may get its pid. */
static __always_inline bool is_agent(struct control *ctl, u32 pid, void *task) {
  return pid == ctl->agent_tgid && start_of_current(task) / TICK_NS == ctl->agent_start;
}

/* The slot is empty but for the few processes on the list: only then is the rest needed. The number of the
 * program within the process ends it with the next exec, whenever the agent asked (bpf/control.py has the
 * twin). */
static __always_inline bool is_ignored(struct control *ctl, u32 pid, void *task) {
  u64 slot = ctl->ignored[pid & (IGNORED_SLOTS - 1)];
  if (!slot)
    return false;
  u64 program = LOAD32(task, OFF_task_struct_self_exec_id);
  u64 process = (start_of_current(task) / TICK_NS) << 22 | pid;
  return slot == (process ^ program * 0x9E3779B97F4A7C15ULL);
}

/* Hash of a path component: its length and first eight bytes (bpf/control.py has the twin). A
 * component of 32 bytes and more counts by its length alone: its bytes are not in the dentry. */
static __always_inline u64 name_hash(u64 first, u32 len) {
  if (len < 8)
    first &= (1ULL << (len * 8)) - 1;
  if (len > 31)
    first = 0;
  return (first ^ ((u64)len << 56)) * 0x9E3779B97F4A7C15ULL;
}

/* Whether a component may be on the list; the length alone rules out most. */
static __always_inline bool is_listed_in(struct control *ctl, u64 *names, u32 len, u64 first) {
  if (!(ctl->name_lengths >> (len < 63 ? len : 63) & 1))
    return false;
  u64 hash = name_hash(first, len), a = hash >> 52, b = hash >> 40 & 4095;
  return (names[a >> 6] >> (a & 63) & 1) && (names[b >> 6] >> (b & 63) & 1);
}

static __always_inline bool is_listed(struct control *ctl, u32 len, u64 first) {
  return is_listed_in(ctl, ctl->names, len, first);
}
