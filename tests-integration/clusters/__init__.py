"""Clusters over each transport, and over a UNIX socket: what holds on all of them."""
