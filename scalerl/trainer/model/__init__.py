"""A Hugging Face model as the trainer uses it: log-probabilities of given tokens in, gradients out.

loading.py    the model, partitioned over the ranks, with the attention that its class supports
buffers.py    floating buffers, such as rotary frequencies, equal a plain load
policy.py     the model's own forward, cut in two before its output embedding
head.py       log-probabilities without the full logits
separation.py sequences that share a row must not see each other
"""
