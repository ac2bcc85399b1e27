/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
 *
 * From a descriptor number to the file behind it: an address to read from, not a typed pointer, for
 * a table that ever held 64 descriptors lies outside files_struct (any child of a script's bash has
 * such a table). */
static __always_inline u64 file_at(u64 files, u32 fd) {
  u64 table = LOAD64(files, OFF_files_struct_fdt), file = 0;
  if (table)
    READ(file, LOAD64(table, OFF_fdtable_fd) + 8ULL * fd);
  return file;
}
