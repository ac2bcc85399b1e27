/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * New processes, so that lineage holds for those that never exec. Threads are not events.
 * The child cannot run before this probe has returned: its record always comes first. */
BPF_RINGBUF_OUTPUT(FORK_EVENTS, FORK_EVENTS_PAGES);

RAW_TRACEPOINT_PROBE(sched_process_fork) {
  u64 child = ctx->args[1], parent = 0;
  u32 pid = 0, tgid = 0;
  READ(pid, child + OFF_task_struct_pid);
  READ(tgid, child + OFF_task_struct_tgid);
  if (pid != tgid)
    return 0;
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_FORK);
  if (!ctl || !cnt)
    return 0;
  COUNT(cnt->seen);
  /* real_parent, not the caller: CLONE_PARENT makes a sibling. */
  struct fork_record record = {};
  record.time_ns = bpf_ktime_get_boot_ns();
  READ(record.start_ns, child + OFF_task_struct_start_boottime);
  record.start_ns = whole_ticks(record.start_ns);
  record.pid = pid;
  record.uid = bpf_get_current_uid_gid();
  READ(parent, child + OFF_task_struct_real_parent);
  READ(parent, parent + OFF_task_struct_group_leader);
  READ(record.ppid, parent + OFF_task_struct_tgid);
  READ(record.parent_start_ns, parent + OFF_task_struct_start_boottime);
  record.parent_start_ns = whole_ticks(record.parent_start_ns);
  bpf_get_current_comm(record.comm, sizeof(record.comm));
  if (FORK_EVENTS.ringbuf_output(&record, sizeof(record), wake_up(cnt, false)))
    COUNT(cnt->lost);
  else
    COUNT(cnt->delivered);
  return 0;
}
