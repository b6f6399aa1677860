"""Measurements, one command each; results as JSON in `benchmarks/results`.

python -m benchmarks                  all of them
python -m benchmarks.bench_codec      one, with options of its own
"""
