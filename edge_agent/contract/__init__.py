"""What devices and server agree on: topics, messages, frames, package members, codes.

A published leaf: the standard library only. Both sides import it; nothing here does I/O.
"""

CONTRACT_VERSION = 1
