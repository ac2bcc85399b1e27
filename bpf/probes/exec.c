/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Programs that were started, from the kernel's own copies after execve or execveat succeeded, and
 * attempts that failed, with their errno. A sys_enter probe would see what user memory holds before
 * the kernel has paged it in, or what another thread is about to rewrite. */
BPF_RINGBUF_OUTPUT(EXEC_EVENTS, EXEC_EVENTS_PAGES);
BPF_RINGBUF_OUTPUT(EXEC_MINOR, EXEC_MINOR_PAGES); /* attempts that failed */
#define EXEC_BYTE_NS BYTE_NS(EXEC_EVENTS_BYTES / 2)

#define EXEC_PATHS_MASK 0x3fff  /* fixed part, file name, executable, cwd: 128 + 3 * 4096 */
#define TYPE_FIFO 1
#define TYPE_CHARACTER 2
#define TYPE_SOCKET 12
#define FAMILY_UNIX 1
#define PIPEFS_MAGIC 0x50495045
#define EXEC_MASK 0x7fff        /* all that and the arguments, with room to spare */
struct exec_scratch { volatile u32 crowded; struct path_buffer path; u8 bytes[EXEC_MASK + 1]; };
BPF_ARRAY(EXEC_SCRATCH, struct exec_scratch, CPU_COUNT); /* a per-CPU value ends at 32 KiB */

static __always_inline u32 mount_marks(void *task) {
  u64 proxy = LOAD64(task, OFF_task_struct_nsproxy);
  if (!proxy) return 0;
  u64 mounts = LOAD64(proxy, OFF_nsproxy_mnt_ns);
  if (!mounts) return 0;
  u64 owner = LOAD64(mounts, OFF_mnt_namespace_user_ns);
  if (!owner) return 0;
  return LOAD32(owner, OFF_user_namespace_ns_inum) == INITIAL_USER_NS ? MARK_HOST_NAMESPACE : 0;
}

static __always_inline void exec_executable(struct exec_record *record, u64 file) {
  u64 inode = LOAD64(file, OFF_file_f_inode);
  if (!inode) return;
  record->exe_inode = LOAD64(inode, OFF_inode_i_ino);
  record->exe_uid = LOAD32(inode, OFF_inode_i_uid);
  record->exe_mode = LOAD16(inode, OFF_inode_i_mode);
  u64 super = LOAD64(inode, OFF_inode_i_sb);
  if (super) record->exe_device = LOAD32(super, OFF_super_block_s_dev);
}

static __always_inline void exec_process(struct exec_record *record, void *task) {
  u64 parent = LOAD64(task, OFF_task_struct_real_parent);
  if (parent) parent = LOAD64(parent, OFF_task_struct_group_leader);
  if (parent) {
    record->ppid = LOAD32(parent, OFF_task_struct_tgid);
    record->parent_start_ns = whole_ticks(LOAD64(parent, OFF_task_struct_start_boottime));
  }
  record->login_uid = LOGIN_UID(task);
  record->cgroup_id = bpf_get_current_cgroup_id();
  bpf_get_current_comm(record->comm, sizeof(record->comm));
}

static __always_inline bool is_unix_socket(u64 file) {
  u64 socket = 0, sk = 0;
  u16 family = 0;
  READ(socket, file + OFF_file_private_data);
  READ(sk, socket + OFF_socket_sk);
  READ(family, sk + OFF_sock_common_skc_family);
  return family == FAMILY_UNIX;
}

/* What a descriptor is: the type of its file in the upper four bits, as in i_mode, and below the device
 * of a character device and the inode number of everything else (bpf/decode.py: `descriptor`). */
static __always_inline u64 descriptor(u64 files, u32 fd) {
  u64 file = file_at(files, fd), inode = 0, super = 0, number = 0;
  u32 device = 0;
  u16 mode = 0;
  if (!file)
    return 0;
  READ(inode, file + OFF_file_f_inode);
  READ(mode, inode + OFF_inode_i_mode);
  READ(number, inode + OFF_inode_i_ino);
  READ(device, inode + OFF_inode_i_rdev);
  READ(super, inode + OFF_inode_i_sb);
  READ(super, super + OFF_super_block_s_magic);
  u64 type = mode >> 12;
  if (type == TYPE_CHARACTER)
    number = device;
  else if (type == TYPE_FIFO && super == PIPEFS_MAGIC)
    type = TYPE_PIPE;
  else if (type == TYPE_SOCKET && is_unix_socket(file))
    type = TYPE_UNIX;
  else if (!type)
    type = TYPE_NONE;
  return type << 60 | (number & (1ULL << 60) - 1);
}

/* Who is answerable for an execution: whoever made the process that executes, for that one does so once;
 * for a failed call, the process itself. */
static __always_inline struct caller exec_caller(void *task, int error) {
  u64 who = error ? (u64)task : LOAD64(task, OFF_task_struct_real_parent), leader = 0;
  READ(leader, who + OFF_task_struct_group_leader);
  struct caller caller = caller_is(leader, PROBE_EXEC, error ? MINOR_BYTE_NS : EXEC_BYTE_NS);
  caller.minor = caller.failed = error != 0;
  return caller;
}

/* `name` is the kernel's copy of the file name (error == 0) or the caller's memory. */
static __always_inline int report_exec(void *task, u64 name, int error) {
  struct control *ctl = control();
  struct counters *cnt = counters(PROBE_EXEC);
  u32 cpu = bpf_get_smp_processor_id(), tgid = bpf_get_current_pid_tgid() >> 32;
  struct exec_scratch *scratch = EXEC_SCRATCH.lookup(&cpu);
  if (!ctl || !cnt || !scratch)
    return 0;
  COUNT(cnt->seen);
  if (is_agent(ctl, tgid, task)) {
    COUNT(cnt->filtered);
    return 0;
  }
  scratch->crowded = error || IS_CROWDED(EXEC_EVENTS);
  if (scratch->crowded) {
    struct caller caller = exec_caller(task, error);
    if (is_throttled(&caller, cnt))
      return 0;
  }
  struct path_buffer *buf = &scratch->path;
  struct exec_record *record = (struct exec_record *)buf->bytes;
  __builtin_memset(record, 0, sizeof(*record));
  record->time_ns = bpf_ktime_get_boot_ns();
  record->start_ns = start_of_current(task);
  record->pid = tgid;
  record->uid = bpf_get_current_uid_gid();
  record->error = error;
  record->exec_id = LOAD32(task, OFF_task_struct_self_exec_id);
  record->marks = mount_marks(task);
  exec_process(record, task);

  buf->at = sizeof(*record);
  buf->cut = 0;
  u8 *text = buf->bytes + sizeof(*record);
  long n = error ? bpf_probe_read_user_str(text, PATH_MAX_BYTES, (void *)name)
                 : bpf_probe_read_kernel_str(text, PATH_MAX_BYTES, (void *)name);
  if (n > 0 && n <= PATH_MAX_BYTES) {
    record->filename_bytes = n;
    buf->at += n;
  }
  u64 mm = LOAD64(task, OFF_task_struct_mm), fs = LOAD64(task, OFF_task_struct_fs);
  u64 file = mm ? LOAD64(mm, OFF_mm_struct_exe_file) : 0;
  if (!error && file && fs) { /* a failed call has changed neither; the agent knows both */
    struct place top = top_of(task);
    struct place exe = {LOAD64(file, OFF_file_f_path + OFF_path_mnt),
                        LOAD64(file, OFF_file_f_path + OFF_path_dentry)};
    struct place cwd = {LOAD64(fs, OFF_fs_struct_pwd + OFF_path_mnt),
                        LOAD64(fs, OFF_fs_struct_pwd + OFF_path_dentry)};
    exec_executable(record, file);
    u64 files = LOAD64(task, OFF_task_struct_files);
    if (files) {
      record->standard_input = descriptor(files, 0);
      record->standard_output = descriptor(files, 1);
      record->standard_error = descriptor(files, 2);
    }
    record->exe_bytes = write_path(ctl, buf, exe, top, EXEC_PATHS_MASK);
    record->cwd_bytes = write_path(ctl, buf, cwd, top, EXEC_PATHS_MASK);
  }
  if (mm && !error) {
    u64 from = LOAD64(mm, OFF_mm_struct_arg_start), to = LOAD64(mm, OFF_mm_struct_arg_end);
    u64 total = to - from;
    record->args_total = total;
    u32 size = total > ARGS_MAX_BYTES ? ARGS_MAX_BYTES : total;
    u32 at = buf->at & EXEC_PATHS_MASK;
    if (size <= ARGS_MAX_BYTES && !bpf_probe_read_user(buf->bytes + at, size, (void *)from)) {
      record->args_bytes = size;
      buf->at = at + size;
    }
  }
  if (buf->cut)
    record->marks |= MARK_CUT;
  u32 bytes = buf->at & EXEC_MASK;
  long full;
  if (error)
    full = EXEC_MINOR.ringbuf_output(record, bytes, wake_up(cnt, false));
  else
    full = EXEC_EVENTS.ringbuf_output(record, bytes, wake_up(cnt, ctl->waiting));
  if (!full)
    COUNT(cnt->delivered);
  if (full || scratch->crowded) {
    struct caller caller = exec_caller(task, error);
    settle(&caller, cnt, bytes, full);
  }
  return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec) {
  u64 name = 0;
  READ(name, ctx->args[2] + OFF_linux_binprm_filename);
  return report_exec((void *)bpf_get_current_task_btf(), name, 0);
}

/* One program for both calls: the loader attaches it to both exits. */
#define NR_EXECVEAT 322

TRACEPOINT_PROBE(syscalls, sys_exit_execve) {
  int error = -args->ret;
  if (error <= 0)
    return 0;
  void *task = (void *)bpf_get_current_task_btf();
  void *regs = (void *)bpf_task_pt_regs((struct task_struct *)task);
  u64 di = LOAD64(regs, OFF_pt_regs_di), si = LOAD64(regs, OFF_pt_regs_si);
  return report_exec(task, args->__syscall_nr == NR_EXECVEAT ? si : di, error);
}
