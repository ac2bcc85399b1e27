/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * The end of a process: when its last thread has gone, with what wait(2) will report. */
#define SIGNAL_GROUP_EXIT 4
BPF_RINGBUF_OUTPUT(EXIT_EVENTS, EXIT_EVENTS_PAGES);
/* Two last threads that leave at once both find no thread alive: the first one here reports. */
BPF_F_TABLE("lru_hash", u64, u8, EXITED, 1024, 0);

RAW_TRACEPOINT_PROBE(sched_process_exit) {
  void *task = (void *)bpf_get_current_task_btf();
  u64 signal = LOAD64(task, OFF_task_struct_signal);
  if (!signal || LOAD32(signal, OFF_signal_struct_live))
    return 0;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  u64 start = start_of_current(task);
  if (LOAD32(signal, OFF_signal_struct_nr_threads) > 1) {
    u64 key = (start / TICK_NS) << 22 | tgid;
    u8 one = 1;
    if (EXITED.insert(&key, &one))
      return 0;
  }
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_EXIT);
  if (!ctl || !cnt)
    return 0;
  COUNT(cnt->seen);
  struct exit_record record = {};
  record.time_ns = bpf_ktime_get_boot_ns();
  record.start_ns = start;
  record.pid = tgid;
  record.uid = bpf_get_current_uid_gid();
  if (LOAD32(signal, OFF_signal_struct_flags) & SIGNAL_GROUP_EXIT) {
    record.status = LOAD32(signal, OFF_signal_struct_group_exit_code);
  } else {
    u64 leader = LOAD64(task, OFF_task_struct_group_leader);
    record.status = leader ? LOAD32(leader, OFF_task_struct_exit_code) : 0;
  }
  if (EXIT_EVENTS.ringbuf_output(&record, sizeof(record), wake_up(cnt, false)))
    COUNT(cnt->lost);
  else
    COUNT(cnt->delivered);
  return 0;
}
