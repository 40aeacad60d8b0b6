"""The show of ``make demo``: a page where each order fans out to its groups, with buttons that start and kill workers.

The shop does not need this folder: delete it, and ``shop/`` and ``orders/`` are the project they were. The show is a
Django app with settings of its own (``show.settings``), which add it to the shop's. ``python -m show`` runs it: an
embedded AWS, real Celery workers for each group, business partners that are slow and sometimes down, and a web server.
``--check`` is the same without the page, and counts who ran what. It leaves no process running.

``board.py`` and ``views.py`` are the page, ``progress.py`` notes in the database how far each group is, ``stage/`` owns
the processes.
"""
