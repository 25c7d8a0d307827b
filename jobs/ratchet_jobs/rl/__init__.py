"""Reinforcement learning over classes: pure tensor maths, buffers, and the algorithms made of them.

Decides how an update is computed; never reads files, clocks or the network, and draws only from generators that it is
given. Called by the RL recipe, the benches and the classic-control tests, which all run the same code: a
classifier's query is an episode of one step, a dialogue or a control task one of many.

Notation everywhere: T time steps, E environments in lock-step, B samples of a batch, A actions (classes),
O shape of an observation. Tensors are float32 unless said otherwise. True in a mask means "counts".
"""
