"""The CUDA engine: kernels, and the host code that feeds them.

Importing this package imports nothing; `device` says whether CUDA can be had, and only then may the rest be imported.
"""
