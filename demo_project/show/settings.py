"""The shop's settings, with the show beside the shop. ``python -m show`` uses them for all of its processes."""

from shop.settings import *  # noqa: F403

DEBUG = False  # its pages would show the settings
INSTALLED_APPS = [*INSTALLED_APPS, "show"]  # noqa: F405
ROOT_URLCONF = "show.urls"
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = False  # the page is http on the loopback interface
