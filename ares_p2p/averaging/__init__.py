"""How the contributions of a round become one update.

vectors    flat float32 vectors, in parts that fit a cache
codec      a vector <-> 1, 2, 3, 4 or 8 bits per element
quantize   numbers -> steps and codes, packing codes <-> bytes: the fast inner parts of the codec
feedback   what 1 bit lost is added to the peer's next contribution
runs       runs of whole frames, for rounds that are exchanged by parts
bounds     how large one contribution, and its share of the update, may be
aggregate  robust coefficients (published), and the bit-exact sum (recomputed by everybody)

theta_r --local steps--> u_i -- encode --> blob_i            every peer
blob_1 ... blob_n -- robust_coefficients --> c_1 ... c_n     the coordinator, who signs them
sum of c_i * decode(blob_i) = u                              everybody, bit for bit

Where peers trust each other, the group averages on its own instead (docs/averaging.md):

group             who may be in a round's group, and what a seat in it can do
allreduce         a seat on hivemind's averager, and how the group meets
allreduce_runner  its all-reduce; what it should not believe is checked

What a peer needs beyond its training, at the peak of each stage, for an adapter of 168 million
parameters and 16 contributions (benchmarks/bench_memory.py; bytes per parameter, then in all):

encode, 2 bits                        0.28   0.05 GB   the blob itself, and 3 MB
encode, 1 bit with feedback           2.2    0.37 GB   two residuals of 8 bits
exchange, everybody's contributions   4.25   0.71 GB   they stay encoded
exchange, the sum in parts, 4 bits    0.52   0.09 GB   instead of them; computed, not measured
aggregate, outer step, digest        12.0    2.02 GB   the sum, and the new state beside the old one
the new state's snapshot              8.0    1.35 GB   its bytes, once they are stored and served

The stages follow each other; the contributions are held until the sum is made.
"""
