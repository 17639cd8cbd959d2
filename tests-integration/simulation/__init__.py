"""
Random schedules of a few engines on a simulated network, in virtual time, each held against a safety oracle.

    python tests-integration/simulation/run.py --schedules 10000 --seed 1

`schedule` runs one schedule from its seed; `network` is the link, `workload` what happens, `ledger` what was seen and
what must be true of it; `mutants` are deliberate defects that the oracle must find.
"""
