"""A simulated world, a peer without sockets, pytest fixtures.

For our own tests, for authors of plugins, and for the tests of those who use the broker.
"""
