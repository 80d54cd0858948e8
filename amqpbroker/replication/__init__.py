"""How the copies of a mirrored queue are kept the same: leader and mirrors, without I/O."""
