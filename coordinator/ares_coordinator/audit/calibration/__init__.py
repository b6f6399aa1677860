"""The parts of `ares-coordinator audit calibrate`; `audit.calibrate` puts them together.

plan     what is trained, on which builds, and where the files of a run lie
cheats   shortcuts, as functions of public inputs
worker   the child process: one build of the libraries, one job
rule     from measured distances to bounds; pure
charts   the pictures; imports matplotlib
"""
