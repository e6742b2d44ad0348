"""probe: find what a language model holds inside about a concept such as creativity, measure it, and turn it up.

Shapes in every docstring: B batch, N examples, T tokens, L recorded layers, D hidden size, C score columns, K strengths,
R random directions. Layer k is the output of decoder block k, 0-based, everywhere: in code, YAML, files and plots.
"""
