"""The fitting engine: a method written for one seed, run for many seeds as one batched program.

tape      noise as an input: shapes learnt once, drawn per seed in blocks
layout    parameters of a group as one flat vector per seed
program   one iteration of all players as a pure function of a dict of tensors
compiled  the same iteration eager, compiled, or as a CUDA graph
checkpoint, loop, group    running it, saving it, turning it into records
"""
