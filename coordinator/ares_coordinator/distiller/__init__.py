"""From a teacher to a dataset.

teacher.py     what a teacher is
procedural/    the teacher that ships: verified tasks by program
filters.py     duplicates and contamination
pipeline.py    generate -> verify -> filter -> split
"""
