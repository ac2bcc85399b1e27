/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* By absolute path: a relative include would find this very file again. */
#include "/usr/include/linux/if_packet.h"
