"""Staging of the demo: everything a reader of the shop's own code can ignore.

``python -m stage`` starts an embedded AWS, real Celery workers for each group, business partners that are slow and
sometimes down, and a web server whose page has buttons for all of that; ``--check`` is the same without the page, and
counts who ran what. Nothing is left running, whichever way it ends.

The process that is started owns all the others. The web server asks it to start, stop or kill a worker over a control
channel (:mod:`stage.control`); the workers run the shop's code as it stands.
"""
