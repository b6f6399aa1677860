"""The coordinator of an ARES network: data, cycles, rounds, audits, credits and the API."""
