/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * Paths from the kernel's own dentries, so that relative names, "..", symbolic links and rewritten
 * user memory cannot hide a file. Components are written leaf first, each ended by NUL; the reader
 * turns them round. */
#define MAX_COMPONENTS 40
#define INLINE_NAME 32

/* Lives in a map's value, as the bytes do, and is volatile: what the verifier loads from there it
 * knows nothing of, so that the turns of a loop are one state to it and not forty. */
struct path_buffer {
  volatile u32 at;     /* where the next component goes */
  volatile u32 start;  /* where the path at hand begins */
  volatile u32 cut;
  volatile u32 listed; /* a component is on the sensitive list */
  volatile u32 bound;  /* a listed path leads through a mount of something else than a whole tree */
  u8 bytes[];
};

/* What lies side by side in struct dentry from d_parent on (6.18: d_shortname, before: d_iname): one
 * read brings parent and name, for names of up to 31 bytes. */
struct dentry_part {
  u64 parent;
  u64 hash_and_len;
  u64 name;
  u64 inode;
  u64 first[INLINE_NAME / 8];
};

/* A struct path: both words of it, as addresses to read from. */
struct place {
  u64 mnt;
  u64 dentry;
};

/* The calling process's root: above it lies nothing, and the reads through the mounts are saved. */
static __always_inline struct place top_of(void *task) {
  struct place top = {};
  u64 fs = LOAD64(task, OFF_task_struct_fs);
  if (fs) {
    top.mnt = LOAD64(fs, OFF_fs_struct_root + OFF_path_mnt);
    top.dentry = LOAD64(fs, OFF_fs_struct_root + OFF_path_dentry);
  }
  return top;
}

/* Appends one component. False when the path is too long for the buffer. */
static __always_inline bool append(struct control *ctl, struct path_buffer *buf,
                                   struct dentry_part *part, u32 mask) {
  u32 len = (part->hash_and_len >> 32) & 255, at = buf->at & mask;
  if (len < INLINE_NAME) {
    __builtin_memcpy(buf->bytes + at, part->first, INLINE_NAME);
    if (is_listed(ctl, len, part->first[0]))
      buf->listed = 1;
  } else {
    bpf_probe_read_kernel(buf->bytes + at, len, (void *)part->name);
    if (is_listed(ctl, len, 0))
      buf->listed = 1;
  }
  buf->bytes[(at + len) & mask] = 0;
  buf->at = at + len + 1;
  return buf->at - buf->start <= PATH_MAX_BYTES - 256;
}

/* Ends a path that is cut: by an empty component, which the reader shows as such. What is left must not be
 * taken for a path from the root. */
static __always_inline u32 end_cut(struct path_buffer *buf, u32 mask) {
  buf->bytes[buf->at & mask] = 0;
  buf->at = buf->at + 1;
  buf->cut = 1;
  return buf->at - buf->start;
}

/* Notes that a mount shows part of a filesystem only, for there any file can have any path. Of the
 * process's own root this is asked only for what is listed: every open ends there. */
static __always_inline void note_bound(struct control *ctl, struct path_buffer *buf, u64 root,
                                       bool is_top) {
  struct dentry_part part = {};
  if (is_top && !buf->listed)
    return;
  READ(part, root + OFF_dentry_d_parent);
  if (is_listed(ctl, part.hash_and_len >> 32, part.first[0]))
    buf->listed = 1;
  if (buf->listed && part.parent != root)
    buf->bound = 1;
}

/* Writes the path of `at` behind buf->at and returns its bytes. */
static __always_inline u32 write_path(struct control *ctl, struct path_buffer *buf, struct place at,
                                      struct place top, u32 mask) {
  u64 root = 0;
  buf->start = buf->at;
  if (!at.mnt || !at.dentry)
    return 0;
  READ(root, at.mnt + OFF_vfsmount_mnt_root);
  for (int i = 0; i < MAX_COMPONENTS; i++) {
    if (at.dentry == root) {
      u64 mount = at.mnt - OFF_mount_mnt, above = 0;
      bool is_top = at.mnt == top.mnt && at.dentry == top.dentry;
      note_bound(ctl, buf, root, is_top);
      if (is_top)
        return buf->at - buf->start;
      READ(above, mount + OFF_mount_mnt_parent);
      if (!above || above == mount)
        return buf->at - buf->start;
      READ(at.dentry, mount + OFF_mount_mnt_mountpoint);
      at.mnt = above + OFF_mount_mnt;
      READ(root, at.mnt + OFF_vfsmount_mnt_root);
      continue;
    }
    struct dentry_part part = {};
    READ(part, at.dentry + OFF_dentry_d_parent);
    if (!append(ctl, buf, &part, mask))
      break;
    /* A file without a folder, such as a memfd: its name is its path. */
    if (!part.parent || part.parent == at.dentry)
      return buf->at - buf->start;
    at.dentry = part.parent;
  }
  return end_cut(buf, mask);
}

/* Writes behind buf->at where a file lies in its own filesystem, whatever shows it where; returns
 * the bytes. */
static __always_inline u32 write_origin(struct control *ctl, struct path_buffer *buf, u64 dentry,
                                        u32 mask) {
  buf->start = buf->at;
  for (int i = 0; i < MAX_COMPONENTS; i++) {
    struct dentry_part part = {};
    READ(part, dentry + OFF_dentry_d_parent);
    if (!append(ctl, buf, &part, mask))
      break;
    if (!part.parent || part.parent == dentry)
      return buf->at - buf->start;
    dentry = part.parent;
  }
  return end_cut(buf, mask);
}
