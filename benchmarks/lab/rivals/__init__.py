"""What others do, in the laboratory's namespaces and on the data of one of our runs.

hivemind_optimizer   one volunteer that trains with `hivemind.Optimizer`
"""
