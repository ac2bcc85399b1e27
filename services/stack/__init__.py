"""The stack: the whole backend on one machine in one process, broker and store included."""
