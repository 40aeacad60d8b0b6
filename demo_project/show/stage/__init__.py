"""Starts, stops and kills the processes of the show, plays the partners, and passes on what the page's buttons ask for.

The process that is started owns all the others. The web server asks it to start, stop or kill a worker over a control
channel (:mod:`show.stage.control`); the workers run the shop's code as it stands.
"""
