"""Sigma rules, turned into the engine's data: text in, rules and refusals out.

``loading.load_files`` is the way in. A document goes through ``documents`` (YAML, bounded),
``parsing`` (pySigma), ``sources`` (what its log source can mean here), ``translation`` (its
condition, folded for each kind of event) and ``metadata``; then ``joining`` looks at all of them
together and makes sequences of the ``correlations``.

Not here: rules are never run, fetched or written, and nothing in one is ever executed.
"""
