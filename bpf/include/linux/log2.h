/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Empty: included by bcc, used by none of our probes. */
