"""The cycle as a state machine: `states` says what may follow what, `runner` does it."""
