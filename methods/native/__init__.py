"""C++ passes of methods with their callers, and what opaque operations need: seeds in front, one seed after the other.

A source ``X.cpp`` has its caller in the Python file that names it (``bench.native.Library``); its headers lie here too.
"""
