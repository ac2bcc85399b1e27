/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Connections, by the address that the kernel's socket holds when the call succeeded or is under
 * way; for a failed call and for unix sockets, by the caller's address. */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define EINPROGRESS 115
#define S_IFMT 0170000
#define S_IFSOCK 0140000
BPF_RINGBUF_OUTPUT(CONN_EVENTS, CONN_EVENTS_PAGES);

struct user_address {
  u16 family;
  u16 port;
  u8 rest[108];
};

/* Family, port and address of a connected IP socket; leaves the record alone for others. */
static __always_inline void kernel_address(struct connect_record *record, u64 file) {
  u64 inode = 0, socket = 0, sk = 0;
  u16 mode = 0, family = 0, port = 0;
  READ(inode, file + OFF_file_f_inode);
  READ(mode, inode + OFF_inode_i_mode);
  if ((mode & S_IFMT) != S_IFSOCK)
    return;
  READ(socket, file + OFF_file_private_data);
  READ(sk, socket + OFF_socket_sk);
  READ(family, sk + OFF_sock_common_skc_family);
  READ(port, sk + OFF_sock_common_skc_dport);
  if (!port)
    return;
  if (family == AF_INET) {
    __builtin_memset(record->address, 0, sizeof(record->address));
    bpf_probe_read_kernel(record->address, 4, (void *)(sk + OFF_sock_common_skc_daddr));
  } else if (family == AF_INET6) {
    bpf_probe_read_kernel(record->address, 16, (void *)(sk + OFF_sock_common_skc_v6_daddr));
  } else {
    return;
  }
  record->family = family;
  record->port = bpf_ntohs(port);
}

TRACEPOINT_PROBE(syscalls, sys_exit_connect) {
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_CONNECT);
  if (!ctl || !cnt)
    return 0;
  COUNT(cnt->seen);
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  void *task = (void *)bpf_get_current_task_btf();
  void *regs = (void *)bpf_task_pt_regs((struct task_struct *)task);
  u64 files = LOAD64(task, OFF_task_struct_files);
  if (is_agent(ctl, tgid, task) || !files || is_ignored(ctl, tgid, task)) {
    COUNT(cnt->filtered);
    return 0;
  }
  struct connect_record record = {};
  struct user_address address = {};
  u64 size = LOAD64(regs, OFF_pt_regs_dx) & 0xffffffff;
  u64 from = LOAD64(regs, OFF_pt_regs_si);
  if (size > sizeof(address))
    size = sizeof(address);
  bpf_probe_read_user(&address, size, (void *)from);
  record.family = address.family;
  record.error = args->ret < 0 ? -args->ret : 0;
  if (record.error == EINPROGRESS)
    record.error = 0;
  if (address.family == AF_UNIX) {
    u32 bytes = size > 2 ? size - 2 : 0;
    record.path_bytes = bytes;
    __builtin_memcpy(record.path, &address.port, 110);
  } else if (address.family == AF_INET) {
    record.port = bpf_ntohs(address.port);
    __builtin_memcpy(record.address, address.rest, 4);
  } else if (address.family == AF_INET6) {
    record.port = bpf_ntohs(address.port);
    __builtin_memcpy(record.address, address.rest + 4, 16);
  }
  if (!record.error && address.family != AF_UNIX)
    kernel_address(&record, file_at(files, LOAD64(regs, OFF_pt_regs_di)));
  if (record.family != AF_UNIX && record.family != AF_INET && record.family != AF_INET6) {
    COUNT(cnt->filtered);
    return 0;
  }
  record.time_ns = bpf_ktime_get_boot_ns();
  record.start_ns = start_of_current(task);
  record.pid = tgid;
  record.uid = bpf_get_current_uid_gid();
  bpf_get_current_comm(record.comm, sizeof(record.comm));
  u64 wake = wake_up(cnt, ctl->waiting && record.family != AF_UNIX);
  if (CONN_EVENTS.ringbuf_output(&record, sizeof(record), wake))
    COUNT(cnt->lost);
  else
    COUNT(cnt->delivered);
  return 0;
}
