"""Kernel side: probes in C, the loader that attaches them, the rings and the record layouts."""
