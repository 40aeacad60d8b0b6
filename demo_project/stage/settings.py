"""The shop's settings with the show around it, for the web server."""

from shop.settings import *  # noqa: F403

DEBUG = False  # its pages would show the settings
INSTALLED_APPS = ["stage", *INSTALLED_APPS]  # noqa: F405 - first, so that its templates come before the shop's
ROOT_URLCONF = "stage.urls"
