/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Changes of state of TCP sockets: a connection that begins (connect.c), and sockets that begin to listen,
 * in the thread that asked for it and however it did. */
#define TCP_SYN_SENT 2
#define TCP_LISTEN 10
#define IPPROTO_MPTCP 262
BPF_RINGBUF_OUTPUT(LISTEN_EVENTS, LISTEN_EVENTS_PAGES);
#define LISTEN_BYTE_NS BYTE_NS(2 * LISTEN_EVENTS_BYTES)

static __always_inline int on_listen(u64 sk) {
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_LISTEN);
  u16 protocol = 0;
  READ(protocol, sk + OFF_sock_sk_protocol);
  if (!ctl || !cnt || protocol == IPPROTO_MPTCP) /* the TCP socket beneath it listens too */
    return 0;
  COUNT(cnt->seen);
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  void *task = (void *)bpf_get_current_task_btf();
  if (is_agent(ctl, tgid, task)) {
    COUNT(cnt->filtered);
    return 0;
  }
  u64 leader = LOAD64(task, OFF_task_struct_group_leader);
  struct caller caller = caller_is(leader, PROBE_LISTEN, LISTEN_BYTE_NS);
  if (is_throttled(&caller, cnt))
    return 0;
  struct listen_record record = {};
  u32 word = 0;
  READ(record.family, sk + OFF_sock_common_skc_family);
  READ(record.port, sk + OFF_sock_common_skc_num);
  if (record.family == AF_INET) {
    READ(word, sk + OFF_sock_common_skc_rcv_saddr);
    *(u32 *)record.address = word;
  } else {
    READ(record.address, sk + OFF_sock_common_skc_v6_rcv_saddr);
  }
  record.time_ns = bpf_ktime_get_boot_ns();
  record.start_ns = start_of_current(task);
  record.pid = tgid;
  record.uid = bpf_get_current_uid_gid();
  record.socket = number_of(sk);
  bpf_get_current_comm(record.comm, sizeof(record.comm));
  bool full = LISTEN_EVENTS.ringbuf_output(&record, sizeof(record), wake_up(cnt, false));
  if (!full)
    COUNT(cnt->delivered);
  settle(&caller, cnt, sizeof(record), full);
  return 0;
}

RAW_TRACEPOINT_PROBE(inet_sock_set_state) {
  if (ctx->args[2] == TCP_SYN_SENT)
    return on_syn_sent(ctx->args[0]);
  if (ctx->args[2] == TCP_LISTEN)
    return on_listen(ctx->args[0]);
  return 0;
}
