"""Training on the device: a recommendation model and small transformers, step time by part, checkpoints.

movielens.py   MovieLens-100k as features       dlrm.py          the model: tables, dot interaction, MLPs
embeddings.py  table-batched embedding bags     optimizers.py    row-wise Adagrad, Shampoo
tasks.py       what is trained on what          parts.py         where a step's time and energy go
checkpoint.py  written whole or not at all      loop.py          the loop; `mtia train` prints what it returns
"""
