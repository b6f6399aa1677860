"""How the contributions of a round become one update.

vectors    flat float32 vectors, in parts that fit a cache
codec      a vector <-> 2, 3, 4 or 8 bits per element
packing    codes <-> bytes, the fast inner part of the codec
bounds     how large one contribution, and its share of the update, may be
aggregate  robust coefficients (published), and the bit-exact sum (recomputed by everybody)

theta_r --local steps--> u_i -- encode --> blob_i            every peer
blob_1 ... blob_n -- robust_coefficients --> c_1 ... c_n     the coordinator, who signs them
sum of c_i * decode(blob_i) = u                              everybody, bit for bit
"""
