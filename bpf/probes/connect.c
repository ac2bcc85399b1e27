/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Connections, by the address that the kernel connects to. For TCP the kernel names socket and address
 * when the state becomes SYN_SENT, in the connecting thread and however it was asked. A connect(2) is
 * reported at its exit, with its result; a connection that begins outside of one (io_uring, TCP fast open,
 * 32-bit calls) at once. The caller's memory and its descriptor are believed only where the call failed
 * and the kernel has no address. */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define EINTR 4
#define EINPROGRESS 115
#define ERESTARTSYS 512
#define S_IFMT 0170000
#define S_IFSOCK 0140000
BPF_RINGBUF_OUTPUT(CONN_EVENTS, CONN_EVENTS_PAGES);
/* Calls that failed, and whatever is not TCP: datagrams have no other side to ask, and for a unix socket
 * the caller may be both. */
BPF_RINGBUF_OUTPUT(CONN_MINOR, CONN_MINOR_PAGES);
#define CONN_BYTE_NS BYTE_NS(CONN_EVENTS_BYTES / 2)

/* Where a connection goes to. Of a unix socket: a hash of the path that the caller's memory holds, or the
 * address of the socket at the other end. */
struct destination {
  u32 family;
  u32 port;
  u64 address[2];
};

/* A connect(2) under way, from its entry to its exit. */
struct connect_call {
  struct destination caller; /* what the caller's memory said at the entry; no family: not known */
  struct destination before; /* what the descriptor's socket was connected to at the entry */
  struct destination kernel; /* what the kernel connects to; port 0: not known */
  u64 sk;                    /* of the descriptor at the entry, then of the connection */
  u64 socket;                /* its inode number */
};
/* By thread. Not an LRU: what does not fit is reported at once when the kernel connects, and nothing can
 * push out the call of another thread. */
BPF_HASH(CONNECT_CALLS, u64, struct connect_call, 8192);

struct connect_scratch {
  struct connect_record record;
  u64 path[UNIX_ADDRESS_BYTES / 8]; /* both are left out of the ring where they are empty */
  u64 claimed_path[UNIX_ADDRESS_BYTES / 8];
  u64 address[UNIX_ADDRESS_BYTES / 8]; /* the caller's sockaddr */
};
BPF_PERCPU_ARRAY(CONNECT_SCRATCH, struct connect_scratch, 1);

/* The socket behind a descriptor, 0 if it is none; with its inode number. */
static __always_inline u64 socket_at(void *task, void *regs, u64 *number) {
  u64 inode = 0, socket = 0, sk = 0, files = LOAD64(task, OFF_task_struct_files);
  u64 file = files ? file_at(files, LOAD64(regs, OFF_pt_regs_di)) : 0;
  u16 mode = 0;
  if (!file)
    return 0;
  READ(inode, file + OFF_file_f_inode);
  READ(mode, inode + OFF_inode_i_mode);
  if ((mode & S_IFMT) != S_IFSOCK)
    return 0;
  READ(*number, inode + OFF_inode_i_ino);
  READ(socket, file + OFF_file_private_data);
  READ(sk, socket + OFF_socket_sk);
  return sk;
}

/* The inode number of a socket, 0 if the kernel made it for itself. */
static __always_inline u64 number_of(u64 sk) {
  u64 socket = 0, file = 0, inode = 0, number = 0;
  READ(socket, sk + OFF_sock_sk_socket);
  if (socket)
    READ(file, socket + OFF_socket_file);
  if (file)
    READ(inode, file + OFF_file_f_inode);
  if (inode)
    READ(number, inode + OFF_inode_i_ino);
  return number;
}

/* What a socket is connected to; no port if it is no IP socket or not connected. */
static __always_inline void peer_of(struct destination *to, u64 sk) {
  u16 family = 0, port = 0;
  u32 word = 0;
  READ(family, sk + OFF_sock_common_skc_family);
  READ(port, sk + OFF_sock_common_skc_dport);
  to->family = family;
  to->port = 0;
  to->address[0] = to->address[1] = 0;
  if (family == AF_INET) {
    READ(word, sk + OFF_sock_common_skc_daddr);
    to->address[0] = word;
  } else if (family == AF_INET6) {
    READ(to->address, sk + OFF_sock_common_skc_v6_daddr);
  } else {
    if (family == AF_UNIX)
      READ(to->address[0], sk + OFF_unix_sock_peer);
    return;
  }
  to->port = bpf_ntohs(port);
}

/* What the caller's memory says, read into `address`, as a destination. */
static __always_inline u32 caller_says(struct destination *to, u64 *address, void *regs) {
  u64 size = LOAD64(regs, OFF_pt_regs_dx) & 0xffffffff;
  if (size > UNIX_ADDRESS_BYTES)
    size = UNIX_ADDRESS_BYTES;
  __builtin_memset(address, 0, UNIX_ADDRESS_BYTES);
  bpf_probe_read_user(address, size, (void *)LOAD64(regs, OFF_pt_regs_si));
  u16 *head = (u16 *)address;
  to->family = head[0];
  to->port = 0;
  to->address[0] = to->address[1] = 0;
  if (to->family == AF_INET) {
    to->port = bpf_ntohs(head[1]);
    to->address[0] = *(u32 *)(head + 2);
  } else if (to->family == AF_INET6) {
    to->port = bpf_ntohs(head[1]);
    to->address[0] = address[1];
    to->address[1] = address[2];
  } else if (to->family == AF_UNIX) {
#pragma unroll
    for (int i = 0; i < UNIX_ADDRESS_BYTES / 8; i++)
      to->address[0] = (to->address[0] ^ address[i]) * 0x9E3779B97F4A7C15ULL;
  }
  return size;
}

static __always_inline bool differ(struct destination *one, struct destination *other) {
  return one->family != other->family || one->port != other->port ||
         one->address[0] != other->address[0] || one->address[1] != other->address[1];
}

static __always_inline void begin_connect(struct connect_record *record, void *task, u32 tgid) {
  record->time_ns = bpf_ktime_get_boot_ns();
  record->start_ns = start_of_current(task);
  record->pid = tgid;
  record->uid = bpf_get_current_uid_gid();
  record->claimed_family = record->claimed_bytes = record->path_bytes = 0;
  bpf_get_current_comm(record->comm, sizeof(record->comm));
}

static __always_inline void set_destination(struct connect_record *record, struct destination *to) {
  record->family = to->family;
  record->port = to->port;
  __builtin_memcpy(record->address, to->address, sizeof(record->address));
}

static __always_inline void set_claim(struct connect_record *record, struct destination *claimed) {
  record->claimed_family = claimed->family;
  record->claimed_port = claimed->port;
  __builtin_memcpy(record->claimed_address, claimed->address, sizeof(record->claimed_address));
}

static __always_inline struct caller connect_caller(void *task, bool minor, int error) {
  u64 leader = LOAD64(task, OFF_task_struct_group_leader);
  struct caller caller = caller_is(leader, PROBE_CONNECT, minor ? MINOR_BYTE_NS : CONN_BYTE_NS);
  caller.minor = minor;
  caller.failed = error != 0;
  return caller;
}

/* Whether buckets have a say in what becomes of a call. */
static __always_inline bool is_counted(bool minor) {
  return minor || IS_CROWDED(CONN_EVENTS);
}

static __always_inline bool is_connect_throttled(struct counters *cnt, void *task, bool minor, int error) {
  if (!is_counted(minor))
    return false;
  struct caller caller = connect_caller(task, minor, error);
  return is_throttled(&caller, cnt);
}

static __always_inline int submit_connect(struct control *ctl, struct counters *cnt, void *task,
                                          struct connect_record *record, bool minor) {
  u32 bytes = sizeof(*record);
  if (record->claimed_bytes)
    bytes += 2 * UNIX_ADDRESS_BYTES;
  else if (record->path_bytes)
    bytes += UNIX_ADDRESS_BYTES;
  u64 wake = wake_up(cnt, ctl->waiting && record->family != AF_UNIX);
  long full;
  if (minor)
    full = CONN_MINOR.ringbuf_output(record, bytes, wake);
  else
    full = CONN_EVENTS.ringbuf_output(record, bytes, wake);
  if (!full)
    COUNT(cnt->delivered);
  if (full || is_counted(minor)) {
    struct caller caller = connect_caller(task, minor, record->error);
    settle(&caller, cnt, bytes, full);
  }
  return 0;
}

TRACEPOINT_PROBE(syscalls, sys_enter_connect) {
  u32 zero = 0;
  u64 thread = bpf_get_current_pid_tgid();
  void *task = (void *)bpf_get_current_task_btf();
  void *regs = (void *)bpf_task_pt_regs((struct task_struct *)task);
  struct connect_scratch *scratch = CONNECT_SCRATCH.lookup(&zero);
  if (!scratch)
    return 0;
  struct connect_call call = {};
  call.sk = socket_at(task, regs, &call.socket);
  if (call.sk)
    peer_of(&call.before, call.sk);
  caller_says(&call.caller, scratch->address, regs);
  CONNECT_CALLS.update(&thread, &call);
  return 0;
}

/* A TCP connection begins (tcp.c). */
static __always_inline int on_syn_sent(u64 sk) {
  u32 zero = 0;
  u64 thread = bpf_get_current_pid_tgid();
  struct connect_call *call = CONNECT_CALLS.lookup(&thread);
  struct destination to = {};
  peer_of(&to, sk);
  if (!to.port) /* MPTCP: the socket of the one connection that it begins with comes next */
    return 0;
  u64 number = number_of(sk);
  struct connect_scratch *scratch = CONNECT_SCRATCH.lookup(&zero);
  if (!scratch)
    return 0;
  void *task = (void *)bpf_get_current_task_btf();
  if (call) {
    call->kernel = to;
    call->sk = sk;
    if (number)
      call->socket = number;
    if (!call->caller.family) /* its page was not in memory; now it is, for the kernel has read it */
      caller_says(&call->caller, scratch->address,
                  (void *)bpf_task_pt_regs((struct task_struct *)task));
    return 0;
  }
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_CONNECT);
  if (!ctl || !cnt)
    return 0;
  COUNT(cnt->seen);
  u32 tgid = thread >> 32;
  if (is_agent(ctl, tgid, task) || is_ignored(ctl, tgid, task)) {
    COUNT(cnt->filtered);
    return 0;
  }
  if (is_connect_throttled(cnt, task, false, 0))
    return 0;
  struct connect_record *record = &scratch->record;
  begin_connect(record, task, tgid);
  set_destination(record, &to);
  record->error = 0; /* how it ends is not known yet */
  record->socket = number;
  return submit_connect(ctl, cnt, task, record, false);
}

/* The path that the other end of a unix connection was bound to. A relative one says less than the
 * caller's, unless that has been rewritten. */
static __always_inline void bound_path(struct connect_scratch *scratch, u64 peer, bool relative_too) {
  u64 address = 0;
  u32 bytes = 0;
  u16 first = 0;
  if (peer)
    READ(address, peer + OFF_unix_sock_addr);
  if (!address)
    return;
  READ(bytes, address + OFF_unix_address_len);
  READ(first, address + OFF_unix_address_name + 2);
  first &= 255;
  if (bytes < 3 || (first && first != '/' && !relative_too))
    return;
  scratch->record.path_bytes = bytes;
  bpf_probe_read_kernel(scratch->path, UNIX_ADDRESS_BYTES,
                        (void *)(address + OFF_unix_address_name));
}

/* What the kernel has connected to in this call; no family: nothing that is an event. `now` is what the
 * descriptor's socket is connected to. */
static __always_inline struct destination connected_to(struct connect_call *call, u64 sk,
                                                       struct destination *now) {
  if (call->kernel.port || call->sk == sk || !call->sk)
    return call->kernel.port ? call->kernel : *now;
  /* Another socket is behind the descriptor now. If the first has not been connected, it is this one that
   * was. */
  struct destination first = {};
  peer_of(&first, call->sk);
  return differ(&first, &call->before) ? first : *now;
}

TRACEPOINT_PROBE(syscalls, sys_exit_connect) {
  u32 zero = 0;
  u64 thread = bpf_get_current_pid_tgid(), number = 0;
  struct connect_call *found = CONNECT_CALLS.lookup(&thread), call = {};
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_CONNECT);
  struct connect_scratch *scratch = CONNECT_SCRATCH.lookup(&zero);
  bool known = found;
  if (found) {
    call = *found;
    CONNECT_CALLS.delete(&thread);
  }
  if (!ctl || !cnt || !scratch)
    return 0;
  COUNT(cnt->seen);
  u32 tgid = thread >> 32;
  void *task = (void *)bpf_get_current_task_btf();
  void *regs = (void *)bpf_task_pt_regs((struct task_struct *)task);
  if (is_agent(ctl, tgid, task) || is_ignored(ctl, tgid, task)) {
    COUNT(cnt->filtered);
    return 0;
  }
  int error = args->ret < 0 ? -args->ret : 0;
  if (error == EINPROGRESS)
    error = 0;
  bool done = !error;
  if (error == ERESTARTSYS) /* a signal; TCP goes on connecting */
    error = call.kernel.port ? 0 : EINTR;
  bool minor = error || !call.kernel.port;
  if (is_connect_throttled(cnt, task, minor, error))
    return 0;
  struct connect_record *record = &scratch->record;
  struct destination caller, now = {};
  u32 size = caller_says(&caller, scratch->address, regs);
  u64 sk = socket_at(task, regs, &number);
  if (sk)
    peer_of(&now, sk);
  struct destination to = error ? call.kernel : connected_to(&call, sk, &now);
  bool rewritten = call.caller.family && differ(&caller, &call.caller);
  begin_connect(record, task, tgid);
  record->error = error;
  record->socket = call.socket ? call.socket : number;
  bool by_kernel = to.port || (!error && to.family == AF_UNIX);
  if (!by_kernel) { /* a call that failed, or a connection without a port */
    if (!error && to.family && to.family != caller.family)
      caller.family = 0;
    to = caller;
  }
  if (to.family != AF_UNIX && to.family != AF_INET && to.family != AF_INET6) {
    COUNT(cnt->filtered);
    return 0;
  }
  set_destination(record, &to);
  if (to.family == AF_UNIX && caller.family == AF_UNIX) {
    record->path_bytes = size;
    __builtin_memcpy(scratch->path, scratch->address, UNIX_ADDRESS_BYTES);
  }
  if (to.family == AF_UNIX && by_kernel)
    bound_path(scratch, to.address[0], rewritten);
  if (by_kernel && rewritten && differ(&caller, &to)) {
    set_claim(record, &caller);
    if (caller.family == AF_UNIX) {
      record->claimed_bytes = size;
      __builtin_memcpy(scratch->claimed_path, scratch->address, UNIX_ADDRESS_BYTES);
    }
  } else if (by_kernel && known && done && now.port && sk != call.sk && differ(&now, &to)) {
    set_claim(record, &now);
  }
  return submit_connect(ctl, cnt, task, record, minor);
}
