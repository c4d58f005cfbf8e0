"""Variational methods, one file per family; every module here is imported by ``bench.registry.discover``.

``base`` is the contract.  Sub-packages hold the rest: ``parts`` what methods are made of, ``native`` C++ and its
callers, ``diffusion`` what methods for diffusion models share, ``baselines`` plain losses for ``bench.speed``.
"""
