/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
#define PAGE_SIZE 4096UL
