"""A Hugging Face model as the trainer uses it: log-probabilities of given tokens. README.md explains it.

loading.py     the model, partitioned over the ranks, with the attention that its class supports
buffers.py     floating buffers, such as rotary frequencies, equal a plain load
policy.py      the model's own forward, cut in two where its last hidden states are
head.py        log-probabilities without the full logits
separation.py  whether sequences may share a row, and whether attention ignores anything
"""
