"""Generated from proto/ares_p2p/wire/v1 by `make proto`; a test fails when they differ."""
