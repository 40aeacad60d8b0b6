"""The contract suite on a real AWS account, and measurements of how late AWS is: ``make aws``.

``__main__.py`` runs it: :mod:`aws_leg.account` checks the credentials, :mod:`aws_leg.plan` says what will be made and
what it costs, and without ``--yes`` that is all. With it, :mod:`aws_leg.measuring` measures, pytest runs
``tests/contract`` with the leg ``aws``, and :mod:`aws_leg.removal` removes everything whose name starts with the random
prefix of the run, whatever ended it.
"""
