"""Bytes that nobody should send, and what must hold whatever they are."""
