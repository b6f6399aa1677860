"""What goes over the wire: `v1/` is generated from `proto/` and checked in; `codec` is the only
door between bytes and the frozen values of `ares_p2p.domain`.
"""
