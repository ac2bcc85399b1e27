"""Between processes: messages, subjects, streams, the broker, the spool.

The only importer of asyncio.
"""
