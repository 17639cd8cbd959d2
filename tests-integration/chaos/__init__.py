"""The campaign: real processes and brokers, seeded faults, one judge."""
