/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Floods. Calls that fail, and connections that need nobody at the other end, cost their maker next to
 * nothing: one process could fill any ring with them. They have rings of their own, and each process and
 * each user has a bucket of bytes there, which fills again with time. For calls that succeed the same holds
 * while their ring is more than half full. What is beyond is counted as throttled, and whoever is held back,
 * or has lost many records for want of room, is told of. */
#define SECOND_NS 1000000000ULL
#define USER_BURST_NS (SECOND_NS / 4)    /* of a user's bytes a second */
#define PROCESS_BURST_NS (SECOND_NS / 2) /* of a process's, which are a quarter of its user's */
#define PROCESS_SHARE 4
#define TOLD_AGAIN_NS (SECOND_NS / 10) /* the first call says that it begins, the next ones how big it is */
#define TOLD_EVERY_NS SECOND_NS
#define LOST_WORTH_TELLING 64 /* fewer may be those of another process, for which the flood left no room */
/* Whether a ring is more than half full of what nobody has read yet. Not every bcc knows how to ask: in
 * place of the ring's descriptor stands a number, for which bpf/programs.py puts it. */
#define IS_CROWDED(ring) (bpf_ringbuf_query((void *)bpf_pseudo_fd(1, ring##_NUMBER), \
                                            BPF_RB_AVAIL_DATA) > ring##_BYTES / 2)
BPF_RINGBUF_OUTPUT(FLOOD_EVENTS, FLOOD_EVENTS_PAGES);

struct owner {
  u64 who;  /* a process, as start and pid, or a user */
  u64 what; /* the probe, and whether it is about its ring of failures */
};
struct bucket {
  u64 busy_ns;   /* when all that was taken will have flowed in again */
  u64 throttled; /* both only grow */
  u64 lost;
  u64 told_throttled; /* of these, what has been told */
  u64 told_lost;
  u64 since_ns; /* when something was told last */
  u64 told;     /* how often */
};
BPF_F_TABLE("lru_hash", struct owner, struct bucket, PROCESS_BUCKETS, 8192, 0);
BPF_F_TABLE("lru_hash", struct owner, struct bucket, USER_BUCKETS, 1024, 0);

/* Whose call it is, and what a byte of its record costs the user, in nanoseconds. */
struct caller {
  u64 start_ns;
  u64 leader; /* address of the process's first task */
  u64 byte_ns;
  u32 pid;
  u32 uid;
  u32 probe;
  bool minor;
  bool failed;
};
#define BYTE_NS(bytes_a_second) (SECOND_NS / (bytes_a_second))
#define MINOR_BYTE_NS BYTE_NS(1 << 20)

static __always_inline struct caller caller_is(u64 leader, u32 probe, u64 byte_ns) {
  struct caller caller = {.leader = leader, .byte_ns = byte_ns, .probe = probe};
  READ(caller.pid, leader + OFF_task_struct_tgid);
  READ(caller.start_ns, leader + OFF_task_struct_start_boottime);
  caller.start_ns = whole_ticks(caller.start_ns);
  caller.uid = bpf_get_current_uid_gid();
  return caller;
}

static __always_inline struct owner process_of(struct caller *caller) {
  struct owner owner = {(caller->start_ns / TICK_NS) << 22 | caller->pid,
                        caller->probe << 1 | caller->minor};
  return owner;
}

static __always_inline struct owner user_of(struct caller *caller) {
  struct owner owner = {caller->uid, caller->probe << 1 | caller->minor};
  return owner;
}

/* Tells of a flood: when it begins, soon after, and then once a second at most. */
static __always_inline void tell_flood(struct caller *caller, struct bucket *bucket, u64 now) {
  u64 told = bucket->told;
  if (told && now - bucket->since_ns < (told == 1 ? TOLD_AGAIN_NS : TOLD_EVERY_NS))
    return;
  struct counters *cnt = counters(PROBE_FLOOD);
  if (!cnt)
    return;
  u64 throttled = bucket->throttled, told_throttled = bucket->told_throttled;
  u64 lost = bucket->lost, told_lost = bucket->told_lost;
  struct flood_record record = {
      .time_ns = now,
      .start_ns = caller->start_ns,
      .pid = caller->pid,
      .uid = caller->uid,
      /* another processor may have told more meanwhile */
      .throttled = throttled > told_throttled ? throttled - told_throttled : 0,
      .lost = lost > told_lost ? lost - told_lost : 0,
      .span_ns = now - bucket->since_ns,
      .probe = caller->probe,
      .failed = caller->failed,
  };
  bpf_probe_read_kernel(record.comm, sizeof(record.comm),
                        (void *)(caller->leader + OFF_task_struct_comm));
  bucket->told = told + 1;
  bucket->since_ns = now;
  bucket->told_throttled = throttled;
  bucket->told_lost = lost;
  COUNT(cnt->seen);
  if (FLOOD_EVENTS.ringbuf_output(&record, sizeof(record), wake_up(cnt, false)))
    COUNT(cnt->lost);
  else
    COUNT(cnt->delivered);
}

/* Whether a call is one too many for its process or its user; then it has been counted. */
static __always_inline bool is_throttled(struct caller *caller, struct counters *cnt) {
  struct owner process = process_of(caller), user = user_of(caller);
  u64 now = bpf_ktime_get_boot_ns();
  struct bucket *bucket = PROCESS_BUCKETS.lookup(&process);
  if (!bucket || bucket->busy_ns <= now + PROCESS_BURST_NS) {
    bucket = USER_BUCKETS.lookup(&user);
    if (!bucket || bucket->busy_ns <= now + USER_BURST_NS)
      return false;
  }
  COUNT(cnt->throttled);
  COUNT(bucket->throttled);
  tell_flood(caller, bucket, now);
  return true;
}

static __always_inline void take(struct bucket *bucket, u64 now, u64 ns) {
  if (bucket->busy_ns < now)
    bucket->busy_ns = now + ns;
  else
    __sync_fetch_and_add(&bucket->busy_ns, ns);
}

/* Takes a record's bytes from both buckets. */
static __always_inline void charge(struct caller *caller, u32 bytes) {
  u64 now = bpf_ktime_get_boot_ns();
  struct bucket fresh = {.since_ns = now}, *bucket;
  struct owner process = process_of(caller), user = user_of(caller);
  bucket = PROCESS_BUCKETS.lookup_or_try_init(&process, &fresh);
  if (bucket)
    take(bucket, now, bytes * caller->byte_ns * PROCESS_SHARE);
  bucket = USER_BUCKETS.lookup_or_try_init(&user, &fresh);
  if (bucket)
    take(bucket, now, bytes * caller->byte_ns);
}

/* Counts a record for which the ring had no room. */
static __always_inline void count_lost(struct caller *caller, struct counters *cnt) {
  u64 now = bpf_ktime_get_boot_ns();
  struct bucket fresh = {.since_ns = now}, *bucket;
  struct owner user = user_of(caller);
  COUNT(cnt->lost);
  bucket = USER_BUCKETS.lookup_or_try_init(&user, &fresh);
  if (!bucket)
    return;
  COUNT(bucket->lost);
  if (bucket->lost - bucket->told_lost >= LOST_WORTH_TELLING)
    tell_flood(caller, bucket, now);
}

/* What a record that was submitted costs: bytes, or its loss. */
static __always_inline void settle(struct caller *caller, struct counters *cnt, u32 bytes, bool full) {
  if (full)
    count_lost(caller, cnt);
  else
    charge(caller, bytes);
}
