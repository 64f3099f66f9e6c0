"""How the final answer of a math problem is compared with its reference; ../README.md lists the rules.

statement.py   the one final answer that a text gives
wording.py     one way of writing for what is written in many
numbers.py     numbers, and when two are equal
units.py       units, and when two agree
rules.py       the rules in their order, each with the reason it gives
algebra.py     everything that takes math-verify
same_value.py  a second look at what math-verify takes for equal
forms.py       what an expression leaves to be worked out
"""
